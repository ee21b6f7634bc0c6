"""Random hypergradient problems, each by one method, against differences of whole trainings."""

import pytest

from benchmarks.random_cases import hypergradients
from benchmarks.random_cases.outcome import OK

# These two have many columns and steps: half a minute each.
DEAR = (8, 20)
SEEDS = [pytest.param(k, marks=[pytest.mark.slow] * (k in DEAR)) for k in range(30)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_problem(seed):
    outcome = hypergradients.run_case(seed)
    assert set(outcome.modes.values()) == {OK}, (outcome.program, outcome.notes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30, 36))
def test_a_random_problem_by_every_method(seed):
    outcome = hypergradients.run_case(seed, thorough=True)
    assert set(outcome.modes.values()) == {OK}, (outcome.program, outcome.notes)
