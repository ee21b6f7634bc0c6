"""Meta-training: that it learns, what it stores and skips, and that it continues exactly."""

import itertools
import json
import math

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_training import adam, backpropagation, meta_step, rollout
from mlhf.runs.checkpoints import CheckpointError, Checkpoints
from replay import PrioritizedReplay, read_structure

CLASSES, FEATURES, BATCH = 3, 4, 8
CENTERS = 1.5 * np.random.default_rng(99).normal(size=(CLASSES, FEATURES))


def network(parameters, inputs):
    dense = parameters["dense"]
    return inputs @ dense["kernel"] + dense["bias"]


def initialize(seed, features=FEATURES):
    random = np.random.default_rng(seed)
    return {
        "dense": {
            "kernel": tf.constant(0.3 * random.normal(size=(features, CLASSES))),
            "bias": tf.zeros([CLASSES], tf.float64),
        }
    }


def batch(number):
    """Batch `number` of an endless stream: points around three centers."""
    random = np.random.default_rng(number)
    labels = random.integers(0, CLASSES, BATCH)
    return CENTERS[labels] + random.normal(size=(BATCH, FEATURES)), labels


def batches(first):
    number = first
    while True:
        yield batch(number)
        number += 1


def make_task(**changes):
    return mlhf.Task(
        **{
            "network": network,
            "loss": "softmax_cross_entropy",
            "initialize": initialize,
            "batches": batches,
            **changes,
        }
    )


def optimizer(**changes):
    return mlhf.MetaHessianFree(**{"cg_iterations": 1, **changes})


def run(steps=6, task=None, rule=None, **arguments):
    arguments = {"roll_back": 2, "progress": False, "meta_lr": 0.01, **arguments}
    return mlhf.meta_train(task or make_task(), rule or optimizer(), steps, **arguments)


def assert_same_weights(a, b):
    assert a.optimizer.weights.keys() == b.optimizer.weights.keys()
    for role, weights in a.optimizer.weights.items():
        for left, right in zip(weights, b.optimizer.weights[role], strict=True):
            np.testing.assert_array_equal(left, right)


def without_times(history):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


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


def as_arrays(structure):
    return tf.nest.map_structure(np.asarray, structure)


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


# What meta-training decides, against a transcription of the design, with a scripted meta-step.


class Script:
    """Losses, meta losses, norms and whether all is finite, one a meta-step; batches carry them."""

    def __init__(self, steps, seed=0):
        random = np.random.default_rng(seed)
        self.loss = random.normal(size=steps)
        self.meta_loss = random.normal(size=steps)
        self.norm = 3 + random.normal(size=steps)
        self.finite = random.uniform(size=steps) > 0.1

    def batches(self, first):
        rows = np.stack([self.loss, self.meta_loss, self.norm, self.finite], 1)
        for row in rows[first:]:
            yield row[None], np.zeros(1, int)

    def task(self):
        return make_task(batches=self.batches)

    @staticmethod
    def meta_step(
        optimizer, layout, static, length, unrolled, weights, moments, carry, batches, *_, **__
    ):
        loss, meta_loss, norm, finite = tf.unstack(batches[0][0, 0])
        metrics = {
            "loss": loss,
            "meta_loss": meta_loss,
            "weights_norm": norm,
            "hession_loss": loss,
            # What it began with.
            "weight": carry.weights[0],
            "memory": carry.state.solution[0],
        }
        state = carry.state._replace(solution=carry.state.solution + 1)
        after = carry._replace(weights=carry.weights + 1, state=state)
        return meta_step.MetaStep(weights, moments, after, metrics, finite > 0)


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


def test_ends_when_nothing_is_finite_any_more(monkeypatch):
    script = Script(40)
    script.finite[5:] = False
    monkeypatch.setattr(backpropagation, "meta_step", script.meta_step)
    result = run(40, task=script.task(), roll_back=1)
    assert result.diverged
    assert len(result.history) < 40


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


# The update of the LSTMs' weights.


@pytest.mark.parametrize("length", [1e-3, 1e3], ids=["short", "clipped"])
def test_update_of_the_weights(length, monkeypatch):
    random = np.random.default_rng(0)
    rule = optimizer()
    state = rule.init(initialize(0))
    layout = rule.layout(initialize(0))
    theta = rule.weights
    draw = [random.normal(size=value.shape) for value in tf.nest.flatten(theta)]
    scale = length / np.linalg.norm([np.linalg.norm(value) for value in draw])
    gradient = tf.nest.pack_sequence_as(theta, [tf.constant(scale * value) for value in draw])

    class Rows:
        def column(self, name):
            return tf.zeros([2], tf.float64)

    carry = rollout.Carry(layout.flatten(initialize(0)), (), state)
    monkeypatch.setattr(rollout, "roll", lambda *_: (carry, Rows()))
    monkeypatch.setattr(rollout, "meta_gradient", lambda *_: rollout.MetaGradient(gradient, {}))
    moments = adam.init(theta)
    rate = tf.constant(0.01, tf.float64)
    got = meta_step.meta_step(
        rule, layout, None, 2, False, theta, moments, carry, (), None, None, rate
    )
    flat = [np.concatenate([np.ravel(v) for v in tf.nest.flatten(s)]) for s in (theta, gradient)]
    w, g = flat[0], flat[1] + 2e-7 * flat[0]
    grad_length, var_length = np.linalg.norm(g), np.linalg.norm(w)
    g *= min(1, var_length / grad_length)
    assert (grad_length > var_length) == (length > 1)
    moved = w - 0.01 * g / (np.abs(g) + 1e-8)
    found = np.concatenate([np.ravel(value) for value in tf.nest.flatten(got.weights)])
    np.testing.assert_allclose(found, moved, rtol=1e-10)
    right = {
        "r_loss": 1e-7 * var_length**2,
        "var_length": var_length,
        "grad_length": grad_length,
        "grad_rate": grad_length / var_length,
        "learning_rate": 0.01,
    }
    for name, value in right.items():
        assert float(got.metrics[name]) == pytest.approx(value, rel=1e-12), name
