import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.runs import debugging
from mlhf.runs.checkpoints import CheckpointError, Checkpoints
from mlhf.runs.run import LARGEST_SKIPS_IN_A_ROW
from replay import PrioritizedReplay
from train_val.problems import image_problems
from train_val.training import loop, optimizers

QUIET = {"progress": False, "eval_steps": 4}


@pytest.fixture(scope="module")
def problem():
    return image_problems.make("mlp", "digits", batch_size=32, seed=3)


def adam():
    return optimizers.make("adam", lr=0.01).optimizer


def assert_same(first, second):
    first, second = tf.nest.flatten(first), tf.nest.flatten(second)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class Faulty:
    """Gradient descent whose steps of some numbers are NaN; its state counts the others."""

    def __init__(self, *faults):
        self.faults, self.calls = faults, 0

    def init(self, parameters):
        del parameters
        return tf.constant(0.0)

    def step(self, objective, parameters, state):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            loss = objective.data_loss(parameters)
        gradient = tape.gradient(loss, parameters)
        moved = {path: value - 0.1 * gradient[path] for path, value in parameters.items()}
        self.calls += 1
        if self.calls in self.faults:
            moved = {path: value * np.nan for path, value in moved.items()}
        return mlhf.Step(moved, state + 1, None, {"loss": loss})


@pytest.mark.parametrize(
    "make",
    [
        adam,
        lambda: mlhf.HessianFree(cg_iterations=2, damping_type="LM_heuristics"),
        lambda: mlhf.MetaHessianFree(cg_iterations=2, x_use="rnn", seed=4),
    ],
    ids=["adam", "hessian_free", "meta"],
)
def test_a_continued_run_ends_with_the_same_bits(problem, tmp_path, make):
    optimizer = make()
    whole = loop.train(problem, optimizer, 7, model_dir=tmp_path / "whole", **QUIET)
    first = loop.train(problem, optimizer, 3, model_dir=tmp_path / "parted", **QUIET)
    assert first.steps == 3
    # The checkpoint is all that it takes.
    for path in (tmp_path / "parted").iterdir():
        if not path.name.startswith("checkpoint"):
            path.unlink()
    parted = loop.train(problem, optimizer, 7, model_dir=tmp_path / "parted", **QUIET)
    assert_same(parted.parameters, whole.parameters)
    assert_same(parted.optimizer_state, whole.optimizer_state)
    assert (parted.accuracy, parted.training_loss) == (whole.accuracy, whole.training_loss)
    assert [line["step"] for line in parted.history] == [4, 5, 6, 7]
    assert [line["loss"] for line in parted.history] == [line["loss"] for line in whole.history[3:]]


def test_metrics_say_how_training_goes(problem, tmp_path):
    seen = []
    result = loop.train(
        problem,
        adam(),
        10,
        model_dir=tmp_path,
        on_step=lambda step, metrics: seen.append((step, metrics["loss"])),
        **QUIET,
    )
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert seen == [(line["step"], line["loss"]) for line in lines]
    evaluated = [line["step"] for line in lines if "test_accuracy" in line]
    assert evaluated == [4, 8, 10]
    assert result.accuracy == lines[-1]["test_accuracy"] == problem.accuracy(result.parameters)
    assert result.training_loss == pytest.approx(problem.training_loss(result.parameters))
    assert lines[-1]["training_loss"] < lines[3]["training_loss"]
    assert not result.skipped and not result.diverged
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_step_that_is_not_finite_is_not_taken(problem, tmp_path):
    states = {}
    repeats = []

    def look(step, metrics):
        del metrics
        states[step] = len(repeats)

    result = loop.train(
        problem,
        Faulty(3),
        5,
        model_dir=tmp_path,
        on_step=look,
        on_not_finite=repeats.append,
        **QUIET,
    )
    assert states == {1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    assert [line["skipped"] for line in result.history] == [0, 0, 1, 1, 1]
    assert result.skipped == 1 and not result.diverged
    # The state began anew after the third step, and the parameters are those of four steps.
    assert float(result.optimizer_state) == 2
    by_hand = problem.task.initialize(1)
    for number, (inputs, targets) in enumerate(problem.task.batches(0).take(5)):
        if number != 2:
            step = Faulty().step(problem.task.objective(inputs, targets), by_hand, tf.constant(0.0))
            by_hand = step.parameters
    assert_same(result.parameters, by_hand)


def test_a_factorization_that_fails_is_a_step_that_is_not_taken(problem):
    class Failing(Faulty):
        def step(self, objective, parameters, state):
            if self.calls == 2:
                self.calls += 1
                tf.linalg.inv(tf.constant([[np.nan]]))
            return super().step(objective, parameters, state)

    repeats = []
    result = loop.train(problem, Failing(), 4, on_not_finite=repeats.append, **QUIET)
    assert [line["skipped"] for line in result.history] == [0, 0, 1, 1] and len(repeats) == 1
    assert result.history[2]["loss"] is None and float(result.optimizer_state) == 1
    assert result.steps == 4 and np.isfinite(result.training_loss)

    class Wrong(Faulty):
        def step(self, objective, parameters, state):
            tf.debugging.assert_less(3, 2, "a label beyond the classes")

    with pytest.raises(tf.errors.InvalidArgumentError, match="a label beyond the classes"):
        loop.train(problem, Wrong(), 1, **QUIET)


def test_a_run_that_stays_not_finite_ends_with_a_result(problem, tmp_path):
    optimizer = Faulty(*range(3, 1000))
    arguments = {"model_dir": tmp_path, "save_steps": 5, **QUIET}
    result = loop.train(problem, optimizer, 500, **arguments)
    assert result.diverged
    assert result.steps == 2 + LARGEST_SKIPS_IN_A_ROW
    assert result.skipped == LARGEST_SKIPS_IN_A_ROW
    assert np.isfinite(result.training_loss) and result.history[-1]["test_accuracy"] >= 0
    _, saved = Checkpoints(tmp_path).read()
    assert all(np.all(np.isfinite(value)) for value in saved["parameters"].values())
    calls = optimizer.calls
    again = loop.train(problem, optimizer, 500, **arguments)
    assert again.diverged and again.steps == result.steps and optimizer.calls == calls


def test_an_overflow_is_named(problem):
    # The second loss is not finite: the first step goes 1e38 far.
    named = []
    result = loop.train(
        problem,
        optimizers.make("SGD", lr=1e38).optimizer,
        3,
        on_not_finite=lambda repeat: named.append(debugging.name_not_finite(repeat)),
        **QUIET,
    )
    assert result.history[-1]["loss"] is None
    assert named[0].startswith("Not finite: the result of a ")
    assert debugging.name_not_finite(lambda: None).endswith("the computation was finite.")


def test_experience_is_recorded_evenly_and_survives_an_interruption(problem, tmp_path):
    path = {0: problem.task.initialize(1)}
    optimizer = adam()

    def stop_at_5(step, metrics):
        del metrics
        if step == 5:
            raise KeyboardInterrupt

    arguments = {"model_dir": tmp_path, "record_experience": 4, "save_steps": 3, **QUIET}
    with pytest.raises(KeyboardInterrupt):
        loop.train(problem, optimizer, 8, on_step=stop_at_5, **arguments)
    loop.train(problem, optimizer, 8, **arguments)
    with PrioritizedReplay.load(tmp_path / loop.EXPERIENCE) as experience:
        assert experience.ids.tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(experience.probabilities, 0.25)
        for number, step in enumerate((0, 2, 4, 6)):
            if step:
                path[step] = loop.train(problem, optimizer, step, **QUIET).parameters
            assert_same(experience.snapshot(number)["parameters"], path[step])


def test_a_folder_is_one_runs_at_a_time(problem, tmp_path):
    def another(step, metrics):
        with pytest.raises(CheckpointError, match="^Another run uses .*this one is"):
            loop.train(problem, adam(), 5, model_dir=tmp_path, settings={"lr": 2}, **QUIET)

    loop.train(problem, adam(), 2, model_dir=tmp_path, on_step=another, **QUIET)
    assert loop.train(problem, adam(), 3, model_dir=tmp_path, **QUIET).steps == 3


def test_a_folder_of_another_run_is_refused(problem, tmp_path):
    loop.train(problem, adam(), 2, model_dir=tmp_path, settings={"lr": 1}, **QUIET)
    before = sorted(path.name for path in tmp_path.iterdir())
    for changed in ({"seed": 2}, {"settings": {"lr": 2}}, {"record_experience": 1}):
        with pytest.raises(CheckpointError, match="is of another run .*expected .*found"):
            loop.train(
                problem,
                adam(),
                4,
                model_dir=tmp_path,
                **{"settings": {"lr": 1}, **changed},
                **QUIET,
            )
    with pytest.raises(CheckpointError, match="optimizer: expected HessianFree, found FirstOrder"):
        loop.train(problem, mlhf.HessianFree(), 4, model_dir=tmp_path, settings={"lr": 1}, **QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps": 0}, "Expected steps to be a whole number of at least 1, got 0"),
        ({"save_steps": 0}, "Expected save_steps"),
        ({"eval_steps": 0}, "Expected eval_steps"),
        ({"seed": -1}, "Expected seed"),
        ({"record_experience": 9}, "Expected record_experience of at most the 4 steps, got 9"),
        ({"record_experience": 2}, "Expected a model_dir= to record the experience in"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(problem, arguments, message):
    with pytest.raises(ValueError, match=message):
        loop.train(problem, adam(), **{"steps": 4, "progress": False, **arguments})


def test_a_normalised_network_is_evaluated_with_statistics_taken_anew():
    def build(shape, classes, seed=0):
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Flatten(), keras.layers.Dense(8), keras.layers.BatchNormalization()]
        return keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(classes)])

    problem = image_problems.of_network(build, "normed", "digits", batch_size=64)
    found, optimizer = {}, adam()
    for statistics in loop.STATISTICS:
        result = loop.train(problem, optimizer, 8, statistics=statistics, progress=False)
        found[statistics] = result.training_loss
    anew = problem.population_state(result.parameters, result.model_state)
    assert found["population"] == pytest.approx(problem.training_loss(result.parameters, anew))
    assert found["moving"] == pytest.approx(
        problem.training_loss(result.parameters, result.model_state)
    )
    assert found["population"] < found["moving"]
    averages = dataclasses.replace(problem, statistics="moving")
    assert averages.population_state(result.parameters, result.model_state) is result.model_state
    with pytest.raises(ValueError, match="Expected statistics to be one of"):
        loop.train(problem, adam(), 1, statistics="old")
