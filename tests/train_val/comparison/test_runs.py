import json
import math

import pytest
import tensorflow as tf

from tests import damage
from tests.train_val.comparison.problems import Halving, problem
from train_val.comparison import Curve, RunCache, run
from train_val.comparison.cost import Cost
from train_val.comparison.runs import measured_steps


def test_a_run_measures_where_it_should():
    curve = run(problem(), Halving(0.5), seed=4, steps=5, every=2, accuracy=True)
    assert curve.steps == [0, 2, 4, 5]
    assert curve.losses == [104.0, 26.0, 6.5, 3.25]
    assert curve.accuracies == [1 - loss / 200 for loss in curve.losses]
    assert curve.diverged_at is None
    assert curve.seconds[0] == 0 and sorted(curve.seconds) == curve.seconds
    assert run(problem(), Halving(0.5), 4, 4, 2).accuracies == []


def test_a_run_that_diverges_is_a_result():
    curve = run(problem(), Halving(9.0), seed=0, steps=7, every=2, accuracy=True)
    # 100, 900, 8100 and then beyond 1e4, where the loss is not a number.
    assert curve.steps == [0, 2, 4, 6, 7]
    assert curve.losses[:2] == [100.0, 8100.0] and all(math.isnan(x) for x in curve.losses[2:])
    assert curve.diverged_at == 4 and curve.at(4) == math.inf and len(curve.accuracies) == 5


def test_a_loss_that_is_not_finite_between_measurements_ends_the_run():
    class Breaking(Halving):
        def step(self, objective, weight, state):
            return super().step(objective, math.nan if state == 2 else weight, state)

    curve = run(problem(), Breaking(0.5), seed=0, steps=6, every=6)
    assert curve.diverged_at == 2 and curve.steps == [0, 6]


@pytest.mark.parametrize("factor", [tf.linalg.inv, tf.linalg.eigh])
@pytest.mark.parametrize("at", [0, 3])
def test_a_factorization_that_fails_is_a_result_with_its_words(factor, at):
    class Failing(Halving):
        def step(self, objective, weight, state):
            if state == at:
                factor(tf.fill([3, 3], math.nan))
            return super().step(objective, weight, state)

    curve = run(problem(), Failing(0.5), seed=0, steps=6, every=3)
    assert curve.diverged_at == at + 1 and "{{function_node" in curve.note
    assert curve.losses[0] == 100 and math.isnan(curve.losses[2])
    assert at == 0 or curve.losses[1] == 12.5


def test_other_errors_are_not_hidden():
    class Wrong(Halving):
        def step(self, objective, weight, state):
            raise ValueError("no such kind")

    with pytest.raises(ValueError, match="no such kind"):
        run(problem(), Wrong(0.5), seed=0, steps=1, every=1)

    class WrongLabels(Halving):
        def step(self, objective, weight, state):
            tf.debugging.assert_less(3, 2, "a label beyond the classes")

    with pytest.raises(tf.errors.InvalidArgumentError, match="a label beyond the classes"):
        run(problem(), WrongLabels(0.5), seed=0, steps=1, every=1)


def test_the_state_of_a_network_is_carried_and_measured():
    by_hand = problem()
    by_hand.task.initial_model_state = lambda: {"moving": 0}
    seen = []

    class Moving(Halving):
        def step(self, objective, weight, state):
            taken = super().step(objective, weight, state)
            return taken._replace(model_state={"moving": objective["moving"] + 1})

    by_hand.task.objective = lambda inputs, targets, model_state: model_state
    by_hand.training_loss = lambda weight, state: seen.append(state["moving"]) or weight
    run(by_hand, Moving(0.5), seed=0, steps=4, every=2)
    assert seen == [0, 2, 4]


def test_batches_of_seeds_and_their_order():
    seen = []
    by_hand = problem()

    class Recording(Halving):
        def step(self, objective, weight, state):
            seen.append(objective)
            return super().step(objective, weight, state)

    run(by_hand, Recording(0.9), seed=2, steps=3, every=3)
    # The first once more, for tracing.
    assert seen == [2000, 2000, 2001, 2002]


def test_kept_runs_survive_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "folder" / "runs.jsonl"
    curve = Curve([0, 1], [1.0, math.nan], [0.0, math.inf], [0.5, math.nan], 1, "words")
    RunCache(path).add_curve({"seed": 1}, curve)
    with path.open("a") as file:
        file.write('{"key": {"seed": 2}, "curve": {"st')
    known = RunCache(path)
    assert known.curve({"seed": 2}) is None
    known.add_curve({"seed": 3}, curve)
    known.add_curve({"seed": 4}, curve)
    again = RunCache(path)
    for seed in (1, 3, 4):
        found = again.curve({"seed": seed})
        assert found.steps == [0, 1] and found.losses[0] == 1.0 and math.isnan(found.losses[1])
        assert math.isnan(found.seconds[1]) and found.diverged_at == 1 and found.note == "words"
    assert again.curve({"seed": 2}) is None
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and all("NaN" not in line for line in lines)
    json.loads(lines[-1])


def test_a_record_of_earlier_versions_is_read(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text(
        '{"key": {"a": 1}, "curve": {"steps": [0], "losses": [NaN], "seconds": [0.0]}}\n'
    )
    assert math.isnan(RunCache(path).curve({"a": 1}).losses[0])


KEY = '{"key": {"a": 1}, '
WHOLE = '"curve": {"steps": [0, 1], "losses": [1.0, 0.5], "seconds": [0.0, 1.0]}}'


@pytest.mark.parametrize(
    "line",
    [
        *(content for content in damage.CONTENTS.values() if content),
        b'{"key": 5, "curve": {}}',
        b'{"curve": {"steps": [0]}}',
        *(
            (KEY + rest).encode()
            for rest in (
                '"curve": 5}',
                '"curve": [1]}',
                '"curve": {"steps": 5, "losses": [1.0], "seconds": [0.0]}}',
                '"curve": {"steps": ["0"], "losses": [1.0], "seconds": [0.0]}}',
                '"curve": {"steps": [0], "losses": ["low"], "seconds": [0.0]}}',
                '"curve": {"steps": [0, 1], "losses": [1.0], "seconds": [0.0]}}',
                '"curve": {"steps": [0], "losses": [1.0], "seconds": [0.0], "later": 1}}',
                '"curve": {"steps": [0], "losses": [1.0], "seconds": [0.0], "note": 1}}',
                '"value": {"steps": [0], "losses": null, "seconds": [0.0]}}',
            )
        ),
    ],
)
def test_a_line_that_is_damaged_or_of_another_version_is_a_run_to_do_again(tmp_path, line):
    path = tmp_path / "runs.jsonl"
    kept = KEY.replace("1", "2") + WHOLE + "\n"
    path.write_bytes(kept.encode() + line + b"\n" + kept.replace("2", "3").encode())
    known = RunCache(path)
    assert known.curve({"a": 1}) is None
    assert known.curve({"a": 2}) == known.curve({"a": 3}) == Curve([0, 1], [1.0, 0.5], [0.0, 1.0])
    known.add_curve({"a": 1}, Curve([0], [4.0], [0.0]))
    assert RunCache(path).curve({"a": 1}) == Curve([0], [4.0], [0.0])
    # What stood there stays, whatever it is.
    assert line in path.read_bytes()


@pytest.mark.parametrize(
    "found", [5, [], {}, {"gradients": "2"}, {"later": 1}, {"peak_bytes": 0.5}]
)
def test_a_cost_of_another_version_is_measured_again(found):
    whole = {"gradients": 2.0, "median": 1.9, "step_seconds": 0.2, "gradient_seconds": 0.1}
    assert Cost.read(whole) == Cost(**whole)
    assert Cost.read({**whole, **found} if found and isinstance(found, dict) else found) is None


def test_steps_of_the_table_are_measured_whatever_the_others_are():
    assert measured_steps(60, 3, (25, 50, 60)) == sorted({*range(3, 61, 3), 25, 50})
    assert measured_steps(7, 3) == [3, 6, 7] and measured_steps(5, 2, (9,)) == [2, 4, 5]
    curve = run(problem(), Halving(0.5), seed=0, steps=6, every=4, also=(5,))
    assert curve.steps == [0, 4, 5, 6] and curve.at(5) == 100 / 32
    # One that diverged has the same steps.
    assert run(problem(), Halving(9.0), seed=0, steps=6, every=4, also=(5,)).steps == curve.steps
