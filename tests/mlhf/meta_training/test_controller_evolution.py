"""The controller's evolution: its estimate by hand, that it learns, that it continues."""

import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.distribute import ProcessExecutor
from mlhf.meta_optimizer.step_controller import ControllerWeights, neutral_weights
from mlhf.meta_training.controller_evolution import FIRST_SEED, WholeTraining
from mlhf.meta_training.strategy import ALL, Strategy
from mlhf.runs.checkpoints import CheckpointError
from tests.mlhf.meta_training.small_runs import batch, make_task

HORIZON = 12
SETTINGS = {"meta_lr": 0.4, "seeds": 2, "progress": False}


def rule(**settings):
    return mlhf.MetaMuon(HORIZON, weights="neutral", **settings)


def evolve(steps, task=None, optimizer=None, **changes):
    task = [make_task(), make_task()] if task is None else task
    return mlhf.evolve_controller(task, optimizer or rule(), steps, **{**SETTINGS, **changes})


def learned_of(weights):
    return np.concatenate([np.ravel(weights.lengths), np.ravel(weights.momentum)])


def losses_by_hand(weights, number):
    """The losses of a whole training by `optimizer.step`."""
    task, optimizer = make_task(), mlhf.MetaMuon(HORIZON, weights=weights)
    parameters = task.initialize(FIRST_SEED + number)
    state, losses = optimizer.init(parameters), []
    stream = iter(task.batches(number * HORIZON))
    for _ in range(HORIZON):
        objective = task.objective(*map(tf.constant, next(stream)))
        parameters, state, _, metrics = optimizer.step(objective, parameters, state)
        losses.append(float(metrics["loss"]))
    return np.array(losses)


def test_a_training_comes_to_the_logarithms_of_its_losses():
    weights = neutral_weights()._replace(momentum=np.full(10, 0.05, "f"))
    score = WholeTraining(make_task(), HORIZON, rule())(weights, 3)
    losses = losses_by_hand(weights, 3)
    expected = 0.75 * math.log(losses[-1]) + 0.25 * math.log(losses[5:7].mean())
    np.testing.assert_allclose(score, expected, rtol=1e-6)
    assert losses[-1] < losses[0]


def test_an_update_is_the_estimate_by_hand():
    result = evolve(1, seed=7, meta_lr=0.3)
    random = np.random.default_rng([7, 0])
    noises, numbers = random.standard_normal([2, 80]), random.integers(0, 2, 2)
    start = neutral_weights()
    training, gaps = WholeTraining(make_task(), HORIZON, rule()), []
    for noise, number in zip(noises, numbers, strict=True):
        sides = [
            start._replace(
                lengths=start.lengths + sign * 0.1 * noise[:70].reshape(5, 14),
                momentum=start.momentum + sign * 0.1 * noise[70:],
            )
            for sign in (1, -1)
        ]
        scores = [training(side, int(number)) for side in sides]
        gaps.append(scores[0] - scores[1])
    # Each counts in units of itself, the only one so far.
    gradient = np.mean(
        [np.sign(gap) / 2 * noise for gap, noise in zip(gaps, noises, strict=True)], 0
    )
    # Adam's first step has the length of the rate.
    expected = -0.3 * 0.1 * np.sign(gradient)
    np.testing.assert_allclose(learned_of(result.optimizer.weights), expected, rtol=1e-4)
    np.testing.assert_array_equal(result.optimizer.weights.outputs, start.outputs)
    (line,) = result.history
    np.testing.assert_allclose(line["difference"], np.mean(np.abs(gaps)), rtol=1e-5)


def test_it_learns_what_pays():
    # A batch repeats, so that longer steps are better everywhere.
    fixed = batch(0)
    task = make_task(batches=lambda first: iter(lambda: fixed, None))
    result = evolve(25, task, seeds=1)
    before, after = (
        WholeTraining(task, HORIZON, rule())(weights, 0)
        for weights in (neutral_weights(), result.optimizer.weights)
    )
    assert after < before - 0.05


def test_executors_give_the_same_numbers():
    alone = evolve(2)
    for executor in (ThreadPoolExecutor(2), ProcessExecutor(1)):
        other = evolve(2, executor=executor)
        for a, b in zip(alone.optimizer.weights, other.optimizer.weights, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_processes_give_the_same_numbers():
    alone, other = evolve(2), evolve(2, executor=ProcessExecutor(2))
    for a, b in zip(alone.optimizer.weights, other.optimizer.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_was_killed_continues(tmp_path):
    whole = evolve(4, layers="all")

    def interrupt(step, _):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        evolve(4, layers="all", model_dir=tmp_path, on_step=interrupt)
    second = evolve(4, layers="all", model_dir=tmp_path)
    assert second.steps == 4
    for a, b in zip(whole.optimizer.weights, second.optimizer.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    loaded = mlhf.MetaHessianFree.from_pretrained(tmp_path / "controller", steps=9)
    np.testing.assert_array_equal(loaded.weights.lengths, second.optimizer.weights.lengths)
    assert [line["step"] for line in second.history] == [1, 2, 3, 4]
    with pytest.raises(CheckpointError, match="meta_lr"):
        evolve(6, layers="all", model_dir=tmp_path, meta_lr=0.2)


def test_a_horizon_for_each_task():
    result = evolve(1, horizon=[3, 5])
    assert result.optimizer.horizon == HORIZON
    with pytest.raises(ValueError, match="a horizon for each of 2 tasks, got 3"):
        evolve(1, horizon=[3, 5, 7])


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="Expected a MetaMuon to meta-train, got .*CurvatureMuon"):
        evolve(1, optimizer=mlhf.CurvatureMuon(10))
    with pytest.raises(ValueError, match="Expected a task, or several, got none"):
        evolve(1, task=[])
    for name, value in {"deviation": 0, "meta_lr": -1, "layers": "output", "seeds": 0}.items():
        with pytest.raises(ValueError, match=name):
            evolve(1, **{name: value})
    short = make_task(batches=lambda first: [])
    with pytest.raises(ValueError, match=r"ended before number \d+; let batches\(k\) repeat"):
        evolve(1, task=short)
    zero = make_task(loss="squared_error", batches=nothing_to_lose)
    with pytest.raises(ValueError, match="Expected losses above 0"):
        evolve(1, task=zero)


def nothing_to_lose(first):
    while True:
        yield np.zeros([4, 4]), np.zeros([4, 3])


def test_a_saved_strategy_of_other_weights_is_refused():
    linear, everything = Strategy(neutral_weights()), Strategy(neutral_weights(), ALL)
    with pytest.raises(ValueError, match="averages of 80 weights"):
        linear.restore(everything.state())
    everything.follow(np.ones(everything.deviations.size), 0.5)
    again = Strategy(neutral_weights(), ALL)
    again.restore(everything.state())
    assert again.generation == 1 and isinstance(again.weights, ControllerWeights)
    # The kernels' perturbations are smaller.
    change = [np.abs(a - b).max() for a, b in zip(again.weights, neutral_weights(), strict=True)]
    np.testing.assert_allclose(change, [0.05, 0.05, 0.015, 0.015, 0.015, 0.015, 0.05], rtol=1e-4)
