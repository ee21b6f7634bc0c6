import json
import os

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_training import adam, meta_step


def task(kernel, with_bias, name, seed=0):
    """A linear network with or without a bias, whose batches are numbered."""

    def batches(start):
        k = start
        while True:
            numbers = np.random.default_rng([seed, k])
            inputs = numbers.normal(size=(6, kernel)).astype(np.float32)
            yield inputs, (inputs[:, 0] > 0).astype(np.int32)
            k += 1

    def initialize(first):
        parameters = {"dense/kernel": tf.random.stateless_normal([kernel, 2], [first, seed])}
        if with_bias:
            parameters["dense/bias"] = tf.zeros([2])
        return parameters

    def network(parameters, inputs):
        outputs = inputs @ parameters["dense/kernel"]
        return outputs + parameters["dense/bias"] if with_bias else outputs

    return mlhf.Task(network, "softmax_cross_entropy", initialize, batches, name=name)


@pytest.fixture(scope="module")
def tasks():
    return [task(3, False, "narrow"), task(5, True, "wide", seed=1)]


SETTINGS = {"roll_back": 2, "meta_lr": 0.01, "keep_prob": 0.5, "progress": False, "seed": 3}


def train(tasks, steps, folder=None, **settings):
    optimizer = mlhf.MetaHessianFree(0.5, cg_iterations=1, seed=2)
    return mlhf.meta_train(tasks, optimizer, steps, model_dir=folder, **{**SETTINGS, **settings})


def flat(result):
    leaves = tf.nest.flatten(result.optimizer.weights)
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_tasks_take_turns(tasks, monkeypatch):
    updates = []
    real = adam.update

    def update(weights, gradient, moments, rate):
        updates.append(gradient)
        return real(weights, gradient, moments, rate)

    monkeypatch.setattr(adam, "update", update)
    result = train(tasks, 4)
    assert [line["task"] for line in result.history] == [0, 1, 0, 1]
    assert result.optimizer.kinds == ["dense_bias", "dense_kernel"]
    assert len(updates) == 2  # one trace a task
    # Each starts at its own initial parameters and batches.
    for one, line in zip(tasks, result.history, strict=False):
        stream = iter(one.batches(0))
        first = one.objective(*next(stream)).linearize(one.initialize(3))
        assert abs(line["base_loss"] - float(first.value)) < 0.5


@pytest.mark.slow
def test_a_mixture_continues_bit_for_bit(tasks, tmp_path):
    whole = train(tasks, 7, tmp_path / "whole", save_steps=3)
    train(tasks, 3, tmp_path / "parts", save_steps=3)
    continued = train(tasks, 7, tmp_path / "parts", save_steps=3)
    np.testing.assert_array_equal(flat(continued), flat(whole))
    for a, b in zip(continued.history, whole.history, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert {"replay", "replay-1"} <= set(os.listdir(tmp_path / "whole"))
    json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])


def test_a_kind_that_a_task_lacks_gets_nothing_from_it(tasks, monkeypatch):
    monkeypatch.setattr(meta_step, "WEIGHT_PENALTY", 0.0)
    optimizer = mlhf.MetaHessianFree(0.5, cg_iterations=1, seed=2)
    optimizer.draw_weights(["dense_bias", "dense_kernel"])
    before = tf.nest.map_structure(np.array, optimizer.weights)
    # One meta-step, on the task without a bias.
    mlhf.meta_train(tasks, optimizer, 1, **SETTINGS)
    assert optimizer.kinds == ["dense_bias", "dense_kernel"]
    moved = tf.nest.map_structure(
        lambda a, b: np.abs(np.array(a) - b).reshape(2, -1).max(1), optimizer.weights, before
    )
    moved = np.max(tf.nest.flatten(moved), 0)
    assert moved[0] == 0 and moved[1] > 1e-4


@pytest.mark.slow
def test_two_tasks_of_the_same_kinds_are_like_one_with_its_batches(tasks):
    # The same task twice, always going on: each begins at the same point, so that the first two
    # meta-steps see the same loss; alone, the second one goes on from the first.
    both = train([tasks[0], tasks[0]], 2, keep_prob=1.0, meta_lr=0.0)
    alone = train(tasks[0], 2, keep_prob=1.0, meta_lr=0.0)
    assert both.history[0]["base_loss"] == alone.history[0]["base_loss"]
    # The noise of the rollouts differs by what is drawn for each meta-step.
    assert both.history[1]["base_loss"] == pytest.approx(both.history[0]["base_loss"], rel=0.05)
    assert "task" not in alone.history[0]


def test_what_does_not_go_together_is_refused(tasks, tmp_path):
    from replay import PrioritizedReplay

    with pytest.raises(ValueError, match="with one task only"):
        train(tasks, 1, experience=PrioritizedReplay(3))
    with pytest.raises(ValueError, match="Expected a task, or several, got none"):
        train([], 1)


@pytest.mark.slow
def test_a_checkpoint_of_other_tasks_is_refused(tasks, tmp_path):
    train(tasks, 1, tmp_path)
    with pytest.raises(mlhf.runs.checkpoints.CheckpointError, match="task: expected narrow, found"):
        train(tasks[:1], 2, tmp_path)
