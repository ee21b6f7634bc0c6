"""Persistent evolution strategies: their estimate by hand, that they learn, that they continue."""

import itertools
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.distribute import ProcessExecutor
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_training import evolution
from mlhf.runs.checkpoints import CheckpointError, Checkpoints
from replay import read_structure, write_structure
from tests.mlhf.meta_training.small_runs import initialize, make_task

SETTINGS = {"roll_back": 2, "horizon": 4, "pairs": 2, "deviation": 0.1, "progress": False}
FIELDS = LSTMWeights._fields


def optimizer(rate=0.5, **changes):
    return mlhf.MetaHessianFree(rate, **{"cg_iterations": 1, "y_use": "none", "seed": 4, **changes})


def evolve(steps, rule=None, task=None, **changes):
    return mlhf.evolve(task or make_task(), rule or optimizer(), steps, **{**SETTINGS, **changes})


def weights_of(result):
    return np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(result.optimizer.weights)])


class ByHand:
    """Two pairs of trainings with `optimizer.step`, and the estimate as the paper writes it."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.task = make_task()
        self.rule = optimizer()
        self.rule.init(initialize(0))
        self.start = self.rule.weights["d"]
        self.size = sum(int(tf.size(v)) for v in self.start) + 1
        self.begun = 0
        self.pairs = [self.begin(2), self.begin(4)]

    def begin(self, horizon):
        self.begun += 1
        parameters = self.task.initialize(evolution.FIRST_SEED + self.begun)
        sides = [(parameters, self.rule.init(parameters)) for _ in range(2)]
        return {"sides": sides, "drift": 0, "age": 0, "horizon": horizon, "first": None}

    def estimate(self, turn):
        """The gradient of an update at the initial meta-parameters, [size]; the rate is last."""
        total = np.zeros(self.size)
        for place, pair in enumerate(self.pairs):
            noise = 0.1 * self.random.standard_normal(self.size)
            pair["drift"] = pair["drift"] + noise
            scores = []
            for side, sign in enumerate((1, -1)):
                self.perturb(sign * noise)
                parameters, state = pair["sides"][side]
                losses = []
                for inputs, targets in itertools.islice(self.task.batches(2 * turn), 2):
                    objective = self.task.objective(inputs, targets)
                    taken = self.rule.step(objective, parameters, state)
                    parameters, state = taken.parameters, taken.state
                    losses.append(float(taken.metrics["loss"]))
                pair["first"] = pair["first"] or losses[0]
                pair["sides"][side] = parameters, state
                scores.append(np.log(np.minimum(losses, 2 * pair["first"])).mean())
            total += pair["drift"] * (scores[0] - scores[1]) / (2 * 0.1**2)
            pair["age"] += 2
            if pair["age"] == pair["horizon"]:
                self.pairs[place] = self.begin(4)
        return total / 2

    def perturb(self, noise):
        fields, start = {}, 0
        # The order of θ's numbers is that of the flattened structure.
        for name in FIELDS:
            value = getattr(self.start, name)
            count = int(tf.size(value))
            part = noise[start : start + count].reshape(value.shape)
            fields[name], start = value + part, start + count
        self.rule.weights = {"d": LSTMWeights(**fields)}
        self.rule.learning_rate = 0.5 * math.exp(noise[-1])


@pytest.fixture
def seen(monkeypatch):
    """The gradients that Adam is given."""
    gradients = []
    real = evolution.adam.update

    def update(parameters, gradient, state, rate):
        gradients.append(evolution._flat(gradient))
        return real(parameters, gradient, state, rate)

    monkeypatch.setattr(evolution.adam, "update", update)
    return gradients


def test_the_estimate_is_that_of_the_paper(seen, monkeypatch):
    monkeypatch.setattr(evolution, "LARGEST_LENGTH", math.inf)
    # At a rate of zero the meta-parameters stay where the estimates are taken.
    result = evolve(4, meta_lr=0.0, seed=0)
    by_hand = ByHand(0)
    for turn in range(4):
        right = by_hand.estimate(turn)
        np.testing.assert_allclose(seen[turn], right, rtol=1e-7, atol=1e-9)
        assert np.linalg.norm(right) > 1e-3
    # The pairs began at different ages: one has begun again after every second update.
    assert [line["age"] for line in result.history] == [2, 3, 3, 3]
    np.testing.assert_array_equal(weights_of(result), evolution._flat(by_hand.start))


def test_a_gradient_is_clipped_to_what_is_usual(seen):
    lengths = [line["grad_length"] for line in evolve(12, meta_lr=0.0).history]
    limits = [math.inf] + [2 * np.median(lengths[:k]) for k in range(1, 12)]
    assert any(length > limit for length, limit in zip(lengths, limits, strict=True))
    expected = np.minimum(lengths, limits)
    np.testing.assert_allclose([np.linalg.norm(g) for g in seen], expected, rtol=1e-6)


def test_it_learns_a_rate_that_was_far_too_small():
    result = evolve(40, optimizer(0.01), horizon=20, pairs=3, meta_lr=0.1, deviation=0.2)
    first, last = (np.mean([line["loss"] for line in part])
                   for part in (result.history[:10], result.history[-10:]))  # fmt: skip
    assert result.optimizer.learning_rate > 0.05
    assert result.optimizer.learning_rate == pytest.approx(result.history[-1]["rate"])
    assert last < 0.8 * first
    fixed = evolve(3, optimizer(0.01), learn_rate=False, meta_lr=0.1)
    assert fixed.optimizer.learning_rate == pytest.approx(0.01)


def test_the_output_layers_alone():
    rule = optimizer()
    rule.init(initialize(0))
    before = rule.weights["d"]
    after = evolve(3, rule, layers="output", meta_lr=0.1).optimizer.weights["d"]
    for name in FIELDS:
        moved = np.any(getattr(before, name) != getattr(after, name))
        assert moved == name.startswith("dense"), name


def test_a_training_that_diverges_counts_as_twice_its_first_loss():
    result = evolve(6, optimizer(1e30), horizon=20, meta_lr=0.0, learn_rate=False)
    assert result.history[-1]["log_loss"] < 3
    assert np.all(np.isfinite(weights_of(result)))
    assert all(math.isfinite(line["grad_length"]) for line in result.history)


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """An uninterrupted run, and another one that was killed after its checkpoint of step 3."""
    # Every gradient is clipped, to what those before it tell.
    monkeypatch.setattr(evolution, "LARGEST_LENGTH", 0.5)

    def kill(step, metrics):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve(7, model_dir=tmp_path, save_steps=3, on_step=kill)
    return evolve(7)


def test_a_killed_run_ends_as_an_uninterrupted_one(killed, tmp_path):
    again = evolve(7, model_dir=tmp_path, save_steps=3)
    np.testing.assert_array_equal(weights_of(killed), weights_of(again))
    assert [line["loss"] for line in again.history] == [line["loss"] for line in killed.history]
    assert again.optimizer.learning_rate == killed.optimizer.learning_rate
    loaded = mlhf.MetaHessianFree.from_pretrained(tmp_path)
    assert loaded.learning_rate == killed.optimizer.learning_rate
    with pytest.raises(CheckpointError, match=r"deviation: expected 0\.3, found 0\.1"):
        evolve(8, model_dir=tmp_path, deviation=0.3)


def test_the_checkpoint_alone_continues_a_run(killed, tmp_path, capsys):
    """Whatever became of the record of metrics, which nothing else is taken from."""
    path = tmp_path / "checkpoint-000000003.npz"
    content = read_structure(path)
    others = [other for other in tmp_path.iterdir() if other != path]
    for other in others:
        other.unlink()
    again = evolve(7, model_dir=tmp_path)
    np.testing.assert_array_equal(weights_of(again), weights_of(killed))
    assert (again.optimizer.learning_rate, again.steps) == (killed.optimizer.learning_rate, 7)
    assert [line["step"] for line in again.history] == [4, 5, 6, 7]
    # Of before checkpoints held the lengths: exact with the record, told without.
    old = {name: value for name, value in content.items() if name != "lengths"}
    for number in (7, 3):
        (tmp_path / f"checkpoint-{number:09d}.npz").unlink(missing_ok=True)
    write_structure(path, old)
    lines = [f'{{"step": {line["step"]}, "grad_length": {line["grad_length"]!r}}}\n'
             for line in killed.history[:3]]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    again = evolve(7, model_dir=tmp_path)
    np.testing.assert_array_equal(weights_of(again), weights_of(killed))
    assert "clipped by those" not in capsys.readouterr().out
    (tmp_path / "checkpoint-000000007.npz").unlink()
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:2]))
    assert evolve(4, model_dir=tmp_path).steps == 4
    assert "metrics.jsonl has 2 of 3: gradients are clipped by those" in capsys.readouterr().out


def test_checkpoints_of_the_other_way_are_refused(tmp_path):
    evolve(1, model_dir=tmp_path / "evolution")
    with pytest.raises(CheckpointError, match="method: expected backpropagation.*, found persist"):
        mlhf.meta_train(make_task(), optimizer(), 1, model_dir=tmp_path / "evolution")
    # From before they had the name of a method.
    Checkpoints(tmp_path / "old").write(1, {"signature": {"roll_back": 10}})
    with pytest.raises(CheckpointError, match="method: expected persistent.*, found backprop"):
        evolve(1, model_dir=tmp_path / "old")
    Checkpoints(tmp_path / "training").write(1, {"settings": {}})
    with pytest.raises(CheckpointError, match="those of something else"):
        evolve(1, model_dir=tmp_path / "training")


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    def another(step, metrics):
        with pytest.raises(CheckpointError, match="^Another run uses .*this one is"):
            evolve(2, model_dir=tmp_path)
        with pytest.raises(CheckpointError, match="^Another run uses"):
            mlhf.meta_train(make_task(), optimizer(), 1, model_dir=tmp_path)

    result = evolve(2, model_dir=tmp_path, on_step=another)
    # The refusal left the first run's files alone, and its end leaves the folder to others.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(result.history) == 2
    assert len(evolve(3, model_dir=tmp_path).history) == 3


def test_a_loss_below_zero_is_refused(tmp_path):
    def network(parameters, inputs):
        return inputs @ parameters["dense/kernel"] + 0.3

    inputs, targets = tf.ones([4, 2]), tf.fill([4, 1], 5.0)
    task = mlhf.Task(
        network,
        "poisson",
        lambda seed: {"dense/kernel": tf.fill([2, 1], 0.1)},
        lambda start: itertools.repeat((inputs, targets)),
        name="counts",
    )
    with pytest.raises(ValueError, match="Expected losses above 0.* got -0.* task 'counts'"):
        evolve(1, task=task)


@pytest.mark.parametrize("rate", [1e30, 1e307], ids=["large", "beyond the largest number"])
def test_a_run_that_diverged_continues_as_if_it_had_not_been_killed(rate, tmp_path):
    def run(steps, **settings):
        return evolve(steps, optimizer(rate), horizon=20, learn_rate=False, **settings)

    whole = run(4)
    run(2, model_dir=tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    again = run(4, model_dir=tmp_path)
    for name in ("log_loss", "difference", "grad_length"):
        assert [line[name] for line in again.history] == [old[name] for old in whole.history[2:]]
    np.testing.assert_array_equal(weights_of(again), weights_of(whole))


def test_a_rate_that_is_not_learned_is_kept_and_belongs_to_the_run(tmp_path):
    result = evolve(1, optimizer(0.3), learn_rate=False, model_dir=tmp_path)
    assert result.optimizer.learning_rate == 0.3
    with pytest.raises(CheckpointError, match=r"learning_rate: expected 0\.1, found 0\.3"):
        evolve(2, optimizer(0.1), learn_rate=False, model_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"meta_lr: expected 1\.0, found 0\.0"):
        evolve(2, optimizer(0.3), learn_rate=False, meta_lr=1.0, model_dir=tmp_path)


def test_what_was_learned_is_there_after_an_interrupt():
    def stop(step, metrics):
        raise KeyboardInterrupt

    for train in (mlhf.evolve, mlhf.meta_train):
        rule = optimizer(d_use="rnn")
        rule.init(initialize(0))
        before = rule.weights["d"].dense_bias.numpy()
        settings = {"horizon": 2, "pairs": 1} if train is mlhf.evolve else {}
        with pytest.raises(KeyboardInterrupt):
            train(
                make_task(),
                rule,
                9,
                roll_back=2,
                progress=False,
                meta_lr=0.1,
                on_step=stop,
                **settings,
            )
        assert np.any(rule.weights["d"].dense_bias.numpy() != before), train


def test_a_mixture_leaves_the_kinds_that_a_task_lacks_alone():
    from tests.mlhf.meta_training.test_task_mixture import task

    rule = optimizer()
    tasks = [task(3, False, "narrow"), task(5, True, "wide", seed=1)]
    result = evolve(1, rule, tasks, meta_lr=0.1)
    assert rule.kinds == ["dense_bias", "dense_kernel"]
    assert [line["task"] for line in evolve(4, optimizer(), tasks).history] == [0, 1, 0, 1]
    assert len(result.history) == 1


def test_tasks_whose_parameters_have_other_paths():
    """Each is stepped in a layout of its own: kinds that are said by path are of one task only."""

    def named(name):
        return make_task(
            network=lambda parameters, inputs: inputs @ parameters[name],
            initialize=lambda seed: {name: initialize(seed)["dense"]["kernel"]},
            kinds={name: "dense_kernel"},
            name=name,
        )

    result = evolve(4, optimizer(), [named("first"), named("second")])
    assert [line["task"] for line in result.history] == [0, 1, 0, 1]


def test_kinds_that_are_new_to_a_trained_optimizer_are_drawn():
    from tests.mlhf.meta_training.test_task_mixture import task

    rule = optimizer()
    evolve(1, rule, task(3, False, "kernels alone"), meta_lr=0.1)
    before = dict(zip(rule.kinds, rule.weights["d"].dense_bias.numpy(), strict=True))
    assert list(before) == ["dense_kernel"]
    evolve(1, rule, task(3, True, "biases too"), meta_lr=0.0)
    after = dict(zip(rule.kinds, rule.weights["d"].dense_bias.numpy(), strict=True))
    assert after == {**before, "dense_bias": 0.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 5}, "multiple of roll_back=2, got 5"),
        ({"pairs": 0}, "pairs"),
        ({"deviation": 0.0}, "deviation"),
        ({"task": []}, "at least one|or several, got none"),
        ({"rule": optimizer(d_use="none")}, "nothing to learn"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        if changes.get("task") == []:
            mlhf.evolve([], optimizer(), 1, **SETTINGS)
        evolve(1, **changes)


def test_batches_that_end_are_an_error():
    finite = make_task(batches=lambda start: iter([]))
    with pytest.raises(ValueError, match="batches ended after 0 updates"):
        evolve(1, task=finite)


@pytest.fixture(scope="module")
def in_turn():
    return evolve(3)


def check_same(result, expected):
    np.testing.assert_array_equal(weights_of(result), weights_of(expected))
    for name in ("loss", "grad_length", "difference"):
        assert [m[name] for m in result.history] == [m[name] for m in expected.history]


def test_particles_trained_at_once_give_the_same_bits(in_turn):
    with ThreadPoolExecutor(2) as threads:
        check_same(evolve(3, executor=threads), in_turn)


class Killed:
    """An executor with two processes, the first of which is killed once."""

    def __init__(self, mark):
        self.mark = mark

    def map(self, function, *arguments):
        mark = self.mark

        def call(*given):
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given)

        return ProcessExecutor(2).map(call, *arguments)


@pytest.mark.slow
def test_particles_in_other_processes_give_the_same_bits_also_when_one_is_killed(in_turn, tmp_path):
    check_same(evolve(3, executor=Killed(tmp_path / "killed")), in_turn)
    assert (tmp_path / "killed").exists()


def test_an_executor_has_map():
    with pytest.raises(TypeError, match=r"Expected an executor with map\(function"):
        evolve(1, executor=2)
