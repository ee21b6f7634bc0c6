import dataclasses

import numpy as np
import pytest

import mlhf
from tests.train_val.comparison.problems import Halving, problem
from train_val.comparison import Contender, Curve, Result, compare, table, weights_digest


class Counting(Halving):
    runs = 0

    def init(self, parameters):
        Counting.runs += 1
        return super().init(parameters)


@pytest.fixture
def run(tmp_path):
    """Compares, and returns the results with how many runs were done for them."""

    def run(*contenders, of=None, **changed):
        Counting.runs = 0
        settings = {"seeds": (1, 2), "steps": 4, "every": 2, "report": (2, 4), **changed}
        results = compare(of or problem(), contenders, cache=tmp_path / "runs.jsonl", **settings)
        return results, Counting.runs

    return run


def test_the_best_of_a_grid_on_all_seeds(run):
    (result,), runs = run(Contender("Halving", Counting, (0.25, 0.5, 0.9)))
    assert runs == 6 and (result.setting, result.inside) == (0.25, False)
    assert [curve.losses[0] for curve in result.curves] == [101.0, 102.0]
    assert result.best == {2: pytest.approx(101.5 / 16), 4: pytest.approx(101.5 / 256)}
    assert result.mean(4) == result.best[4]
    # The grid is run on seeds of its own, and the best on those that are left.
    (result,), runs = run(Contender("Another", Counting, (0.25, 0.5, 0.9)), tuning_seeds=(1,))
    assert runs == 4 and len(result.curves) == 2
    # Means over other seeds do not compare: the best are those of the setting that ran them all.
    assert result.best == {step: result.mean(step) for step in (2, 4)}
    assert result.best[4] == pytest.approx(101.5 / 256)


def test_kept_runs_are_of_the_same_problem_and_the_same_weights(run):
    first = Contender("MLHF", Counting, [0.5], "weights of one")
    assert run(first)[1] == 2
    (again,), runs = run(first)
    assert runs == 0 and again.curves[0].losses == [101.0, 25.25, 6.3125]
    # Another meta-optimizer under the same name.
    second = Contender("MLHF", lambda rate: Counting(0.25), [0.5], "weights of another")
    (other,), runs = run(second)
    assert runs == 2 and other.curves[0].losses[1] == 101 / 16
    assert run(dataclasses.replace(first, identity=None))[1] == 2
    assert run(first, of=problem("another"))[1] == 2
    assert run(first, second)[1] == run(first, of=problem("another"))[1] == 0


def test_weights_have_names_of_their_own():
    def digest(seed):
        optimizer = mlhf.MetaHessianFree(1.0, seed=seed)
        optimizer.init({"dense/kernel": np.ones([2, 2], np.float32)})
        return weights_digest(optimizer.weights)

    assert digest(1) == digest(1) != digest(2) and len(digest(1)) == 16


def test_what_diverged_is_called_so_in_the_table():
    nan = float("nan")
    lived = Curve([0, 2, 4], [8.0, 4.0, 2.0], [0.0, 1.0, 2.0])
    died = Curve([0, 2, 4], [8.0, 4.0, nan], [0.0, 1.0, nan], diverged_at=3)
    best = {2: 4.0, 4: float("inf")}
    # The seconds are those of the median run, of which one that diverged is the slowest.
    results = [Result("Most", 0.1, [lived, died, lived], best, True)]
    results += [Result("Few", 0.1, [died, died, lived], best, True)]
    most, few = table(results, (2, 4)).splitlines()[2:]
    assert most == "| Most | 0.1 | 4 | diverged | 2.00 |"
    assert few == "| Few | 0.1 | 4 | diverged | diverged |"
