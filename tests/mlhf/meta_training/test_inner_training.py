"""Where rollouts begin, what the replay stores, and the batches of a rollout."""

import math

import numpy as np
import pytest
import tensorflow as tf

from mlhf.meta_training import backpropagation
from mlhf.runs.checkpoints import CheckpointError, Checkpoints
from replay import PrioritizedReplay
from tests.mlhf.meta_training.small_runs import (
    BATCH,
    FEATURES,
    Script,
    as_arrays,
    batch,
    batches,
    initialize,
    make_task,
    optimizer,
    run,
)

# Against a transcription of the design, with a scripted meta-step.


def transcription(script, steps, keep_prob, seed, replay, initial):
    """Where each meta-step begins, by the design; leaves the replay as it should be."""
    generator = np.random.default_rng(seed)
    w, memory, marks = initial, 0.0, []
    began = replay.add({"weight": np.array(w)})
    best, best_norm, gains = math.inf, script.initial_norm, []
    for t in range(steps):
        marks.append((w, memory))
        if script.finite[t]:
            w, memory = w + 1, memory + 1
            gains.append(script.meta_loss[t])
            if generator.random() < keep_prob:
                continue
            if script.loss[t] < best and script.norm[t] < 1.2 * best_norm:
                best, best_norm = script.loss[t], script.norm[t]
                replay.add({"weight": np.array(w)})
            replay.update([began], [math.exp(sum(gains) / len(gains))])
        sample = replay.sample(step=t + 1)
        began, w = int(sample.ids[0]), float(sample.snapshots[0]["weight"])
        memory, gains = 0.0, []
    return marks


@pytest.mark.parametrize("keep_prob", [0.0, 0.5, 1.0])
def test_where_rollouts_begin_and_what_is_stored(keep_prob, monkeypatch):
    steps, seed = 60, 7
    script = Script(steps)
    # A good one that has grown too far, and a good one that is stored only while nothing was.
    script.loss[20], script.norm[20], script.finite[20] = -9, 9, True
    script.initial_norm = float(tf.linalg.global_norm(tf.nest.flatten(initialize(seed))))
    script.norm *= script.initial_norm / 3
    monkeypatch.setattr(backpropagation, "meta_step", script.meta_step)
    replays = [PrioritizedReplay(4, beta_steps=steps, seed=5) for _ in range(2)]
    rule = optimizer()
    result = run(
        steps,
        task=script.task(),
        rule=rule,
        roll_back=1,
        keep_prob=keep_prob,
        seed=seed,
        replay=replays[0],
    )
    first = float(rule.layout(initialize(seed)).flatten(initialize(seed))[0])
    marks = transcription(script, steps, keep_prob, seed, replays[1], first)
    got = [(line["weight"], line["memory"]) for line in result.history]
    np.testing.assert_allclose(got, marks, rtol=1e-12)
    np.testing.assert_array_equal(replays[0].ids, replays[1].ids)
    np.testing.assert_allclose(replays[0].priorities, replays[1].priorities, rtol=1e-12)
    assert result.skipped == np.sum(~script.finite)
    stored = replays[0].ids[-1]
    # The initial weights are the first. With new bests there are more, and the oldest go.
    assert (stored == 0) if keep_prob == 1 else (stored > 0)
    assert -9 not in [line["loss"] for line in result.history if line["snapshots"] == 0]


def test_a_replay_holds_the_initial_weights_first(monkeypatch):
    monkeypatch.setattr(backpropagation, "meta_step", Script.meta_step)
    replay = PrioritizedReplay(3)
    run(2, task=Script(2).task(), roll_back=1, keep_prob=1.0, seed=8, replay=replay)
    for a, b in zip(
        tf.nest.flatten(replay.snapshot(0)["parameters"]),
        tf.nest.flatten(initialize(8)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_rollouts_begin_from_recorded_experience_and_do_not_rate_it(monkeypatch):
    steps = 12
    script = Script(steps)
    monkeypatch.setattr(backpropagation, "meta_step", script.meta_step)
    experience = PrioritizedReplay(5)
    for seed in range(3):
        snapshot = {"parameters": as_arrays(initialize(seed + 20)), "model_state": ()}
        experience.add(snapshot, priority=seed + 1)
    result = run(steps, task=script.task(), roll_back=1, keep_prob=0.0, experience=experience)
    layout = optimizer().layout(initialize(0))
    firsts = [float(layout.flatten(initialize(seed + 20))[0]) for seed in range(3)]
    # A new begin at every meta-step, the first included.
    assert {line["weight"] for line in result.history} == set(firsts)
    np.testing.assert_array_equal(experience.priorities, [1, 2, 3])
    assert len(experience) == 3
    wrong = PrioritizedReplay(1)
    wrong.add({"parameters": as_arrays(initialize(0, 9)), "model_state": ()})
    with pytest.raises(CheckpointError, match=r"with the parameters .*got \[.*float64\[9, 3\]"):
        run(steps, task=script.task(), roll_back=1, experience=wrong)
    single = tf.nest.map_structure(np.float32, as_arrays(initialize(0)))
    for snapshot, message in (
        ({"parameters": single, "model_state": ()}, r"the parameters .*got \[.*float32"),
        ({"parameters": as_arrays(initialize(0)), "model_state": {"a": 1.0}}, "the model_state"),
    ):
        wrong = PrioritizedReplay(1)
        wrong.add(tf.nest.map_structure(np.asarray, snapshot))
        with pytest.raises(CheckpointError, match=message):
            run(steps, task=script.task(), roll_back=1, experience=wrong)
    with pytest.raises(CheckpointError, match="an experience with snapshots, got an empty one"):
        run(steps, task=script.task(), roll_back=1, experience=PrioritizedReplay(1))


@pytest.mark.parametrize("damaged", [False, True])
def test_the_checkpoint_and_its_replay_alone_continue_a_run(damaged, monkeypatch, tmp_path):
    """With an experience too, of which a snapshot is found damaged before the kill."""
    steps = 14
    script = Script(steps)
    monkeypatch.setattr(backpropagation, "meta_step", script.meta_step)
    recorded = PrioritizedReplay(5, tmp_path / "experience", "proportional", seed=0)
    for seed in range(4):
        recorded.add({"parameters": as_arrays(initialize(seed + 20)), "model_state": ()}, seed + 1)
    recorded.save()
    recorded.close()
    if damaged:
        (tmp_path / "experience" / "snapshot-00000003.npz").write_bytes(b"damaged")

    def go(name, to=steps):
        experience = PrioritizedReplay.load(tmp_path / "experience") if damaged else None
        run(to, task=script.task(), roll_back=1, keep_prob=0.2, experience=experience,
            model_dir=tmp_path / name, save_steps=7, seed=3)  # fmt: skip
        if experience is not None:
            experience.close()
        _, last = Checkpoints(tmp_path / name).read()
        # It counts what is on the disk, and its β depends on how many steps were asked for.
        return {**last, "replay": {k: v for k, v in last["replay"].items() if k not in UNLIKE}}

    whole = go("whole")
    go("parted", 7)
    for path in (tmp_path / "parted").iterdir():
        if path.is_file() and not path.name.startswith("checkpoint"):
            path.unlink()
    assert str(go("parted")) == str(whole)
    if damaged:
        assert list(whole["decisions"]["left_out"]) == [3]


UNLIKE = ("serial", "settings")


def test_a_replay_that_is_given_keeps_what_it_holds(monkeypatch, tmp_path):
    script = Script(2)
    monkeypatch.setattr(backpropagation, "meta_step", script.meta_step)
    with PrioritizedReplay(9, tmp_path) as replay:
        kept = replay.add({"parameters": as_arrays(initialize(7)), "model_state": ()})
        run(2, task=script.task(), roll_back=1, replay=replay)
        assert len(replay) > 1
        np.testing.assert_array_equal(
            replay.snapshot(kept)["parameters"]["dense"]["kernel"],
            initialize(7)["dense"]["kernel"],
        )


def test_batches_that_end_are_an_error(monkeypatch):
    script = Script(5)
    monkeypatch.setattr(backpropagation, "meta_step", script.meta_step)
    with pytest.raises(ValueError, match="batches ended after 2 meta-steps of 2 batches; 9 were"):
        run(9, task=script.task(), roll_back=2)


@pytest.mark.parametrize("dataset", [False, True], ids=["generator", "dataset"])
def test_batches_of_a_rollout(dataset):
    def stream(first):
        if not dataset:
            return batches(first)
        return tf.data.Dataset.from_generator(
            lambda: batches(first),
            output_signature=(
                tf.TensorSpec([BATCH, FEATURES], tf.float64),
                tf.TensorSpec([BATCH], tf.int64),
            ),
        )

    groups = iter(make_task(batches=stream).rollout_batches(4, 3))
    for start in (4, 7):
        inputs, targets = next(groups)
        for t in range(3):
            x, y = batch(start + t)
            np.testing.assert_array_equal(inputs[t], x)
            np.testing.assert_array_equal(targets[t], y)


@pytest.mark.parametrize("dataset", [False, True], ids=["generator", "dataset"])
def test_batches_of_other_shapes_are_refused(dataset):
    def stream(first):
        x, y = np.zeros([20, FEATURES]), np.zeros(20, int)
        if dataset:
            return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
        return ((x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, 20, BATCH))

    with pytest.raises(ValueError, match="batches of one static shape.*drop_remainder=True"):
        list(make_task(batches=stream).rollout_batches(0, 3))
