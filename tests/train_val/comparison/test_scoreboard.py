import dataclasses
import json
import math

import pytest

from tests.train_val.comparison.problems import Halving, entrant, problem
from train_val.comparison import Cost, at_measured_cost, scoreboard
from train_val.comparison.cost import machine

SETTINGS = {"steps": 6, "every": 2, "tuning_steps": 2, "progress": False}


class Counting(Halving):
    runs = 0

    def init(self, parameters):
        type(self).runs += 1
        return super().init(parameters)


@pytest.fixture
def counting():
    class Fresh(Counting):
        runs = 0

    return Fresh


def test_each_is_tuned_and_run_at_its_best(counting):
    who = entrant("Halving", (0.3, 1.0, 3.0), counting)
    (score,) = scoreboard(problem(), [who], seeds=(1, 2), **SETTINGS)
    # The smaller the factor the better, until there is no room left.
    assert len(score.tuning.tried) == 16 and not score.tuning.inside
    assert counting.runs == 18
    best = score.tuning.best["learning_rate"]
    assert [curve.losses[0] for curve in score.curves] == [101.0, 102.0]
    assert score.curves[0].losses[1] == pytest.approx(101 * best**2)
    assert score.curves[0].accuracies  # and tuning measures none


def test_a_killed_comparison_continues_also_within_tuning(counting, tmp_path):
    cache = tmp_path / "runs.jsonl"
    who = entrant("Halving", (0.3, 1.0, 3.0), counting)

    class Killed(BaseException):
        pass

    class Kill(counting):
        def init(self, parameters):
            if type(self).runs == 5:
                raise Killed
            return super().init(parameters)

    class Late(counting):
        runs = 0

    Kill.runs = 0
    with pytest.raises(Killed):
        scoreboard(problem(), [entrant("Halving", (0.3, 1.0, 3.0), Kill)], cache=cache, **SETTINGS)
    assert len(cache.read_text().splitlines()) == 5
    whole = scoreboard(problem(), [who], **SETTINGS)
    late = entrant("Halving", (0.3, 1.0, 3.0), Late)
    continued = scoreboard(problem(), [late], cache=cache, **SETTINGS)
    assert Late.runs == 16 + 3 - 5
    assert continued[0].tuning == whole[0].tuning
    for a, b in zip(continued[0].curves, whole[0].curves, strict=True):
        assert a.losses == b.losses and a.accuracies == b.accuracies
    Late.runs = 0
    scoreboard(problem(), [late], cache=cache, **SETTINGS)
    assert Late.runs == 0
    # Another problem, and other conditions, are other runs.
    for changed in ({"problem": problem("another")}, {"conditions": {"part": "meta_train"}}):
        Late.runs = 0
        arguments = {"problem": problem(), **changed}
        scoreboard(arguments.pop("problem"), [late], cache=cache, **arguments, **SETTINGS)
        assert Late.runs == 19


def test_a_diverged_run_stands_in_the_scores(tmp_path):
    who = [entrant("Growing", (9.0,)), entrant("Halving", (0.5,))]
    growing, halving = scoreboard(problem(), who, cache=tmp_path / "runs.jsonl", **SETTINGS)
    assert [curve.diverged_at for curve in growing.curves] == [4, 4, 4]
    assert all(math.isfinite(curve.losses[-1]) for curve in halving.curves)
    json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])


def test_a_cost_that_cannot_be_measured_leaves_the_rest(tmp_path):
    def cost(who, setting):
        if who.title == "Growing":
            raise RuntimeError("The cost of Growing could not be measured: it diverged")
        return Cost(2.0, 1.9, 0.2, 0.1, 10**9)

    who = [entrant("Growing", (9.0,)), entrant("Halving", (0.5,))]
    scores = scoreboard(problem(), who, cost=cost, cache=tmp_path / "runs.jsonl", **SETTINGS)
    assert scores[0].cost is None and scores[1].cost == Cost(2.0, 1.9, 0.2, 0.1, 10**9)
    growing, halving = at_measured_cost(scores)
    assert all(math.isnan(seconds) for curve in growing.curves for seconds in curve.seconds)
    assert halving.curves[0].seconds == [0.2 * step for step in halving.curves[0].steps]


def test_a_kept_cost_of_fewer_rounds_or_another_machine_is_measured_again(tmp_path):
    measured = []

    def board(rounds, where=None):
        def cost(who, setting):
            measured.append(rounds)
            return Cost(2.0, 1.9, 0.2, 0.1, rounds=rounds, machine=where or machine())

        settings = {**SETTINGS, "cache": tmp_path / "runs.jsonl", "cost": cost}
        scoreboard(problem(), [entrant("Halving", (0.5,))], cost_rounds=rounds, **settings)

    board(1, "another")
    for rounds in (1, 20, 20, 5):
        board(rounds)
    assert measured == [1, 1, 20]


def test_the_cost_is_measured_once_at_the_best(tmp_path):
    asked = []

    def cost(who, setting):
        asked.append((who.title, setting))
        return Cost(2.0, 1.9, 0.2, 0.1, 10**9)

    who = [entrant("Halving", (0.3, 0.5), Halving)]
    for _ in range(2):
        (score,) = scoreboard(
            problem(), who, cost=cost, largest=2, cache=tmp_path / "runs.jsonl", **SETTINGS
        )
        assert score.cost == Cost(2.0, 1.9, 0.2, 0.1, 10**9)
    assert asked == [("Halving", {"learning_rate": 0.3})]


def test_tuning_on_the_reported_seeds_runs_them_once(counting, tmp_path):
    who = entrant("Halving", (0.25, 0.5, 0.9), counting)
    settings = {**SETTINGS, "seeds": (1, 2), "largest": 3, "accuracy": False}
    settings["cache"] = tmp_path / "runs.jsonl"
    (score,) = scoreboard(problem(), [who], tuning_seeds=(1, 2), **settings)
    assert counting.runs == 6 and score.tuning.best == {"learning_rate": 0.25}
    assert not score.tuning.inside and not score.curves[0].accuracies
    assert score.tuning.tried[1][1] == pytest.approx(101.5 / 2**6)
    assert [len(curves) for curves in score.over_grid] == [2, 2, 2]
    assert score.over_grid[0] == score.curves
    # On one of the seeds: the best alone runs the other too, and the rest is kept.
    (score,) = scoreboard(problem(), [who], tuning_seeds=(1,), **settings)
    assert counting.runs == 6 and not score.over_grid and len(score.curves) == 2
    again = dataclasses.replace(who, identity={"optimizer": "another"})
    scoreboard(problem(), [again], tuning_seeds=(1,), **settings)
    assert counting.runs == 6 + 4


def test_runs_that_a_grid_search_kept_are_found(counting, tmp_path):
    cache = tmp_path / "runs.jsonl"
    curve = {"steps": [0, 2, 4, 6], "losses": [4.0, 3.0, 2.0, 1.0], "seconds": [0.0] * 4}
    lines = [
        {"name": "Pair", "setting": [rate, damping], "seed": seed}
        for rate in (0.3, 1.0)
        for damping in (0.1, 0.2)
        for seed in (1, 2)
    ]
    lines += [{"name": "MLHF", "identity": "f00d", "setting": 0.5, "seed": n} for n in (1, 2)]
    both = {"problem": "by hand", "steps": 6, "every": 2}
    cache.write_text(
        "".join(json.dumps({"key": {**both, **line}, "value": curve}) + "\n" for line in lines)
    )
    pair = entrant("Pair", (0.3, 1.0), counting)
    pair = dataclasses.replace(pair, axes={**pair.axes, "damping": (0.1, 0.2)})
    learned = entrant("MLHF", (0.5,), counting)
    learned = dataclasses.replace(learned, identity={"learning_rate": 0.5, "weights": "f00d"})
    settings = {**SETTINGS, "seeds": (1, 2), "cache": cache, "accuracy": False, "largest": 4}
    scores = scoreboard(problem(), [pair, learned], tuning_seeds=(1, 2), **settings)
    assert counting.runs == 0
    assert all(one.losses[-1] == 1.0 for score in scores for one in score.curves)
    # Other weights are another optimizer, whatever it is called.
    other = dataclasses.replace(learned, identity={"learning_rate": 0.5, "weights": "beef"})
    scoreboard(problem(), [other], **settings)
    assert counting.runs == 2
