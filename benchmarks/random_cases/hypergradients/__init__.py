"""Random hypergradient problems against differences of whole trainings in NumPy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.random_cases.hypergradients import generator, in_library, reference
from benchmarks.random_cases.outcome import FAILED, NO_REFERENCE, OK, REFUSED, Outcome
from mlhf import hypergrad

# Of the largest entry of the hypergradient.
TOLERANCE = 1e-6


def run_case(seed: int, thorough: bool = False) -> Outcome:
    """Compares methods on the problem of an integer.

    Args:
      seed: The integer.
      thorough: Whether by all methods that are exact for it; otherwise by one, which the integer
        chooses, of every third problem `implicit` at its optimum.

    Returns:
      What became of it, by method.
    """
    if seed % 3 == 2:
        return _at_an_optimum(seed, thorough)
    case = generator.make(seed)
    methods = in_library.exact_methods(case)
    if not thorough:
        name = sorted(methods)[(seed // 3) % len(methods)]
        methods = {name: methods[name]}
    outcome = _outcome(case)
    right, apart = reference.differences(case, reference.train)
    problem = in_library.problem(case)
    for name, method in methods.items():
        _compare(outcome, name, functools.partial(method, problem), right, apart)
    return outcome


def _at_an_optimum(seed: int, thorough: bool) -> Outcome:
    case = generator.make_convex(seed)
    outcome = _outcome(case)
    right, apart = reference.differences(case, reference.optimum)
    solvers = dict(in_library.SOLVERS)
    if not thorough:
        name = sorted(solvers)[(seed // 3) % len(solvers)]
        solvers = {name: solvers[name]}
    problem, w = in_library.problem(case), reference.optimum(case, case.hyper)
    for name, solver in solvers.items():

        def method(solver: Callable[[], Any] = solver) -> hypergrad.Result:
            return hypergrad.implicit(
                problem,
                in_library.structure(case, w),
                in_library.hyperparameters(case),
                solver=solver(),
                train_first=False,
            )

        _compare(outcome, f"implicit, {name}", method, right, apart)
    return outcome


def _outcome(case: generator.Case) -> Outcome:
    features = [case.dynamics, f"{case.steps} steps", f"start: {case.start}"]
    for name, value in case.hyper.items():
        shape = "scalar" if value.ndim == 0 else f"rank {value.ndim}"
        features.append(f"{name}: {shape}" + (" schedule" if name in case.schedules else ""))
    features += sorted({f"function {f}" for f in case.functions[0]})
    return Outcome(case.seed, features=features, checked=["hypergradient"], program=repr(case))


def _compare(
    outcome: Outcome,
    name: str,
    method: Callable[[], hypergrad.Result],
    right: dict[str, np.ndarray],
    apart: float,
) -> None:
    try:
        result = method()
    except (hypergrad.DivergedError, hypergrad.linear_solvers.LinearSolveError) as error:
        outcome.modes[name] = REFUSED
        outcome.notes.append(f"{name}: {type(error).__name__}: {error}")
        return
    found = in_library.as_arrays(result.hypergradient)
    largest = max(np.abs(value).max() for value in right.values())
    worst = max(np.abs(found[key] - value).max() for key, value in right.items())
    if worst <= TOLERANCE * max(largest, 1e-3):
        outcome.modes[name] = OK
        return
    # The differences are accurate to about the change by the extrapolation.
    accurate = apart * largest < 1e-3 * worst or apart < 1e-4
    outcome.modes[name] = FAILED if accurate else NO_REFERENCE
    outcome.notes.append(
        f"{name}: off by {worst:.3g} of {largest:.3g}; found {found}, right {right}"
    )
