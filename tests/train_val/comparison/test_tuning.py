import math

import pytest

from train_val.comparison import tune


def quadratic(best, name="learning_rate"):
    return lambda setting: (math.log10(setting[name]) - math.log10(best)) ** 2


def tried(tuning, name="learning_rate"):
    return [setting[name] for setting, _ in tuning.tried]


def test_a_best_inside_the_grid_ends_it():
    tuning = tune({"learning_rate": (0.01, 0.1, 1.0)}, quadratic(0.1))
    assert tuning.best == {"learning_rate": 0.1} and tuning.inside
    assert tried(tuning) == [0.01, 0.1, 1.0]


@pytest.mark.parametrize(
    "grid, best, beyond",
    [
        ((1e-3, 3e-3, 1e-2), 0.1, [0.03, 0.1, 0.3]),
        ((1e-3, 3e-3, 1e-2), 3e-5, [3e-4, 1e-4, 3e-5, 1e-5]),
        ((0.1, 0.2, 0.4), 1.5, [0.8, 1.6, 3.2]),
        ((0.2, 0.4), 0.1, [0.1, 0.05]),
        ((0.3, 1.0, 3.0), 9.0, [10.0, 30.0]),
    ],
)
def test_a_grid_goes_on_beyond_its_edge(grid, best, beyond):
    tuning = tune({"learning_rate": grid}, quadratic(best))
    assert tried(tuning) == [*grid, *beyond]
    assert tuning.inside


def test_the_best_of_two_settings_has_neighbours_along_both():
    def loss(setting):
        rate, damping = math.log10(setting["learning_rate"]), math.log10(setting["damping"])
        return (rate - 0.5) ** 2 + (damping + 2 - (rate - 0.5)) ** 2

    tuning = tune({"learning_rate": (0.1, 1.0), "damping": (0.1, 1.0)}, loss, largest=30)
    assert tuning.inside
    known = {(s["learning_rate"], s["damping"]): value for s, value in tuning.tried}
    rate, damping = tuning.best["learning_rate"], tuning.best["damping"]
    rates = sorted({r for r, d in known if d == damping})
    dampings = sorted({d for r, d in known if r == rate})
    assert rates[0] < rate < rates[-1] and dampings[0] < damping < dampings[-1]
    assert min(known, key=known.get) == (rate, damping)


def test_the_budget_holds_and_the_edge_is_told():
    tuning = tune({"learning_rate": (0.1, 1.0)}, lambda s: -s["learning_rate"], largest=5)
    assert len(tuning.tried) == 5 and not tuning.inside
    # The grid that was asked for is run whole.
    assert len(tune({"cg_iterations": (1, 2, 3, 4)}, lambda s: 0.0, largest=2).tried) == 4


def test_where_all_diverge_smaller_rates_are_tried():
    def loss(setting):
        return setting["learning_rate"] if setting["learning_rate"] < 0.05 else math.nan

    tuning = tune({"learning_rate": (1.0, 3.0)}, loss, largest=12)
    assert tuning.tried[0][1] == math.inf
    assert tuning.best["learning_rate"] < 0.05
    never = tune({"learning_rate": (1.0, 3.0)}, lambda s: math.nan, largest=6)
    assert len(never.tried) == 6 and never.best["learning_rate"] == 0.01 and not never.inside


def test_other_settings_are_a_grid_without_an_outside():
    tuning = tune({"cg_iterations": (1, 2, 4)}, lambda s: -s["cg_iterations"])
    assert tuning.best == {"cg_iterations": 4} and tuning.inside
    assert len(tuning.tried) == 3


def test_without_axes_nothing_is_tried():
    tuning = tune({}, lambda s: pytest.fail("tried"))
    assert tuning.best == {} and tuning.tried == [] and tuning.inside


def test_at_least_so_many_settings_are_tried_between_the_best_and_its_neighbours():
    tuning = tune({"learning_rate": (0.01, 0.1, 1.0)}, quadratic(0.05), least=8)
    assert len(tuning.tried) == 8 and tuning.inside
    assert abs(math.log(tuning.best["learning_rate"] / 0.05)) < math.log(1.3)
    assert tried(tuning)[3:5] == [0.032, 0.32]
    # Not more than the budget, and none where nothing lies between.
    assert len(tune({"learning_rate": (0.1, 1.0)}, quadratic(0.1), largest=5, least=8).tried) == 5
    assert len(tune({"cg_iterations": (1, 2)}, lambda s: s["cg_iterations"], least=8).tried) == 2
    assert tune({}, lambda s: 0.0, least=8).tried == []
