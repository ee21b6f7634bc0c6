"""Meta-training: that it learns, what it skips, and that it continues exactly."""

import itertools
import json
import math

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_training import backpropagation
from mlhf.runs.checkpoints import CheckpointError, Checkpoints
from replay import PrioritizedReplay, read_structure
from tests.mlhf.meta_training.small_runs import (
    FEATURES,
    Script,
    as_arrays,
    assert_same_weights,
    batch,
    batches,
    initialize,
    make_task,
    network,
    optimizer,
    run,
    without_times,
)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        # Each meta loss by what it teaches; h is not comparable while the damping changes.
        ("meta_loss", {"y_use": "none", "learning_rate": 0.2}),
        ("hession_loss", {"d_use": "none", "damping": 0.05, "x_use": "rnn"}),
    ],
)
def test_learns(name, rule):
    """At first and at last 8 meta-steps teach nothing: the same batches from the same start."""
    start = PrioritizedReplay(1)
    parameters = tf.nest.map_structure(lambda leaf: 5 * leaf, initialize(0))
    start.add({"parameters": as_arrays(parameters), "model_state": ()})
    result = run(
        76,
        task=make_task(batches=lambda first: (batch(k % 24) for k in itertools.count(first))),
        rule=optimizer(**rule),
        roll_back=3,
        meta_lr=lambda done: 0.03 if 8 <= done < 68 else 0.0,
        keep_prob=0.0,
        experience=start,
    )
    values = [line[name] for line in result.history]
    assert np.mean(values[-8:]) < 1.1 * np.mean(values[:8]) < 0
    assert result.skipped == 0 and not result.diverged
    assert [line["step"] for line in result.history] == list(range(1, 77))
    assert result.seconds_to_first_step > 0


# A run that is killed and continued. With the seed 5 the rollouts of meta-step 5 go on from those
# of meta-step 4, whose checkpoint is restored, and a new random generator would decide otherwise.


def stateful_network(parameters, model_state, inputs):
    """Centers the inputs by a running mean."""
    mean = 0.9 * model_state["mean"] + 0.1 * tf.reduce_mean(inputs, 0)
    return network(parameters, inputs - mean), {"mean": mean, "calls": model_state["calls"] + 1}


def stateful_task(**changes):
    state = {"mean": tf.zeros([FEATURES], tf.float64), "calls": tf.constant(0)}
    return make_task(network=stateful_network, model_state=state, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a finished run of six meta-steps, and its result."""
    path = tmp_path_factory.mktemp("finished")
    return path, run(task=stateful_task(), seed=5, model_dir=path, save_steps=2)


def test_a_run_stopped_and_continued_is_the_same_bit_for_bit(folder, tmp_path):
    path, whole = folder

    def stop(step, metrics):
        if step == 5:
            raise KeyboardInterrupt

    arguments = {"task": stateful_task(), "seed": 5, "model_dir": tmp_path, "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        run(on_step=stop, **arguments)
    assert Checkpoints(tmp_path).steps() == [2, 4]
    seen = []
    result = run(on_step=lambda step, metrics: seen.append(step), **arguments)
    assert seen == [5, 6]
    assert_same_weights(result, whole)
    assert without_times(result.history) == without_times(whole.history)
    lines = [(p / "metrics.jsonl").read_text().splitlines() for p in (tmp_path, path)]
    assert without_times(map(json.loads, lines[0])) == without_times(map(json.loads, lines[1]))
    assert len(lines[0]) == 6
    left, right = (read_structure(p / "checkpoint-000000006.npz") for p in (tmp_path, path))
    for state in (left, right):
        # It counts what is on the disk.
        state["replay"].pop("serial")
    assert str(left) == str(right)
    # The states of network and rollout are part of it.
    assert left["carry"]["model_state"]["calls"] > 0
    assert np.any(left["carry"]["solution"]["dense"]["kernel"])
    # What is done already is not done again.
    again = run(task=stateful_task(), seed=5, model_dir=tmp_path)
    assert_same_weights(again, whole)
    loaded = mlhf.MetaHessianFree.from_pretrained(tmp_path)
    for role, weights in whole.optimizer.weights.items():
        np.testing.assert_array_equal(loaded.weights[role].kernel1, weights.kernel1)


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("parameters", {"task": stateful_task(initialize=lambda seed: initialize(seed, 5))}),
        ("rule", {"rule": optimizer(y_use="none")}),
        ("rule", {"rule": optimizer(cg_iterations=2)}),
        ("rule", {"rule": optimizer(curvature_share=0.5)}),
        ("rule", {"rule": optimizer(input_scale="rms")}),
        ("rule", {"rule": optimizer(inputs="gr")}),
        ("damping", {"rule": optimizer(damping=0.1)}),
        ("kinds", {"task": stateful_task(kinds="mine")}),
        ("seed", {"seed": 4}),
        ("roll_back", {"roll_back": 3}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(folder, named, arguments):
    path, _ = folder
    with pytest.raises(CheckpointError, match=f"of another run .*{named}: expected .*, found"):
        run(**{"task": stateful_task(), "seed": 5, "model_dir": path, **arguments})
    # The refusal locks nothing and changes nothing.
    assert Checkpoints(path).steps() == [4, 6]
    run(task=stateful_task(), seed=5, model_dir=path)


def test_a_damaged_checkpoint_is_named(folder, tmp_path):
    path, _ = folder
    content = (path / "checkpoint-000000006.npz").read_bytes()
    file = tmp_path / "checkpoint-000000006.npz"
    file.write_bytes(content[:-50])
    with pytest.raises(CheckpointError, match=f"{file} is damaged.*Remove that file"):
        run(task=stateful_task(), seed=5, model_dir=tmp_path)
    Checkpoints(tmp_path).write(7, {"of": "something else"})
    with pytest.raises(CheckpointError, match="something else"):
        run(task=stateful_task(), seed=5, model_dir=tmp_path)


def test_the_checkpoint_before_a_damaged_one_can_be_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(backpropagation, "REPLAY_CAPACITY", 2)
    arguments = {"keep_prob": 0.0, "rule": optimizer(learning_rate=0.2), "seed": 2}
    whole = run(9, model_dir=tmp_path, save_steps=3, **arguments)
    # Snapshots were stored after the last checkpoint but one, for which others left.
    _, before = Checkpoints(tmp_path).read(6)
    _, last = Checkpoints(tmp_path).read(9)
    assert before["replay"] != last["replay"]
    (tmp_path / "checkpoint-000000009.npz").unlink()
    arguments["rule"] = optimizer(learning_rate=0.2)
    again = run(9, model_dir=tmp_path, save_steps=3, **arguments)
    assert without_times(again.history) == without_times(whole.history)
    assert_same_weights(again, whole)


METRICS = {
    "hession_loss",
    "meta_loss",
    "meta_loss_same_batch",
    "meta_loss_next_batch",
    "base_loss",
    "loss",
    "r_loss",
    "var_length",
    "grad_length",
    "grad_rate",
    "learning_rate",
}


def test_batches_that_are_not_finite_are_skipped_and_leave_nothing_behind(tmp_path):
    def poisoned(first):
        for number, (x, y) in enumerate(batches(first), first):
            # In the third and fourth meta-step, which have two batches each.
            yield (np.full_like(x, math.nan) if number in (5, 6) else x), y

    weights = []
    rule = optimizer(seed=1)
    result = run(
        task=make_task(batches=poisoned),
        rule=rule,
        model_dir=tmp_path,
        save_steps=1,
        on_step=lambda step, metrics: weights.append(metrics["var_length"]),
    )
    assert result.skipped == 2
    assert [line["skipped"] for line in result.history] == [0, 0, 1, 2, 2, 2]
    # Weights stand still while steps are skipped, and move before and after.
    assert weights[2] == weights[3] == weights[4] != weights[5]
    assert all(np.all(np.isfinite(value)) for value in tf.nest.flatten(rule.weights))
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # The poisoned batch is the last of the one meta-step, and the first of the other.
    assert [line["step"] for line in lines if line["loss"] is None] == [3]
    assert [line["step"] for line in lines if line["base_loss"] is None] == [4]
    for line in lines:
        assert set(line) >= METRICS
    for step in Checkpoints(tmp_path).steps():
        _, content = Checkpoints(tmp_path).read(step)
        for value in tf.nest.flatten(content):
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                assert np.all(np.isfinite(value))
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_ends_when_nothing_is_finite_any_more(monkeypatch):
    script = Script(40)
    script.finite[5:] = False
    monkeypatch.setattr(backpropagation, "meta_step", script.meta_step)
    result = run(40, task=script.task(), roll_back=1)
    assert result.diverged
    assert len(result.history) < 40


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("steps", {"steps": 0}),
        ("roll_back", {"roll_back": 0}),
        ("meta_lr", {"meta_lr": "fast"}),
        ("meta_lr", {"meta_lr": float("nan")}),
        ("keep_prob", {"keep_prob": 1.5}),
        ("keep_prob", {"keep_prob": "half"}),
        ("save_steps", {"save_steps": 0}),
        ("seed", {"seed": -1}),
    ],
)
def test_bad_arguments(named, arguments):
    with pytest.raises(ValueError, match=f"^Expected {named} to be .*, got"):
        run(**arguments)


def test_arguments_that_do_not_go_together(tmp_path):
    with pytest.raises(ValueError, match="nothing to learn"):
        run(rule=optimizer(y_use="none", d_use="none"))
    with pytest.raises(
        TypeError, match="Expected a MetaHessianFree to meta-train, got <mlhf.*HessianFree"
    ):
        run(rule=mlhf.HessianFree())
    with pytest.raises(ValueError, match="replay= or model_dir="):
        run(replay=PrioritizedReplay(3), model_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
