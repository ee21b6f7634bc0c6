"""The methods that are compared, each a function that trains until its clock is over."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import mlhf
from benchmarks.equal_seconds import tf_levenberg_marquardt
from benchmarks.equal_seconds.clock import Clock
from mlhf.minimization.growing_sample import GROWING, GrowingSample, of_several_sizes
from train_val.problems.equation_problem import EquationProblem

# Steps in one call of a compiled loop: a first-order step is so short that a call costs as much.
_STEPS = 10
# The share of the seconds that Adam gets in "adam then l-bfgs".
_ADAM_SHARE = 0.2
_FIRST_ORDER: dict[str, Callable[[float], Any]] = {
    "adam": lambda rate: mlhf.FirstOrder(lambda: keras.optimizers.Adam(rate)),
    "soap": mlhf.SOAP,
    "muon": mlhf.Muon,
}
# The largest product of points and parameters of a step that is compiled before the clock starts.
_COMPILED_AHEAD = 2**26
# Rates that are tried, at the beginning of a cosine that ends with the seconds.
RATES = {
    "adam": (1e-3, 3e-3, 1e-2, 3e-2),
    "soap": (1e-3, 3e-3, 1e-2, 3e-2),
    "muon": (1e-3, 3e-3, 1e-2, 3e-2),
}
# Methods whose seconds are not planned: one run serves all times.
WITHOUT_RATE = (
    "lm on growing samples",
    "lm",
    "martens",
    "l-bfgs",
    "adam then l-bfgs",
    "self-scaled broyden",
    "tf-levenberg-marquardt",
)
METHODS = (*WITHOUT_RATE, *RATES)


class FirstOrderLoop:
    """Steps of a first-order method in one compiled loop, for all seeds and rates of a problem."""

    def __init__(self, name: str, problem: EquationProblem, sample: int | None) -> None:
        """Prepares the loop; it is compiled at its first call.

        Args:
          name: The method's name, a key of `RATES`.
          problem: The problem.
          sample: The number of points, of all terms together, that each step draws; None for all.
        """
        self.optimizer = _FIRST_ORDER[name](1e-3)
        objective = problem.objective()
        share = 1.0 if sample is None else sample / objective.batch_size()

        def drawn(term: mlhf.Objective) -> mlhf.Objective:
            size = term.batch_size()
            count = max(1, round(share * size))
            return term.examples(tf.random.uniform([count], 0, size, tf.int32))

        def steps(parameters: Any, state: Any) -> tuple[Any, Any]:
            for _ in range(_STEPS):
                one = objective if sample is None else objective.map_terms(drawn)
                parameters, state, *_ = self.optimizer.step(one, parameters, state)
            return parameters, state

        self._steps = tf.function(steps, autograph=False)

    def run(self, parameters: Any, clock: Clock, rate: float, seconds: float) -> Any:
        """Trains until the clock is over or the seconds are.

        Args:
          parameters: The parameters to start from.
          clock: The clock.
          rate: The rate at the first step; it falls to 0 along a cosine.
          seconds: The seconds at which it is 0.

        Returns:
          The parameters.
        """
        state = self.optimizer.init(parameters)
        # Compiled by steps that are thrown away.
        self.optimizer.learning_rate = rate
        self._steps(parameters, state)
        clock.over(parameters)
        while clock.seconds < seconds:
            share = min(1.0, clock.seconds / seconds)
            self.optimizer.learning_rate = rate * 0.5 * (1 + math.cos(math.pi * share))
            parameters, state = self._steps(parameters, state)
            if clock.over(parameters):
                break
        return parameters


def run(
    name: str,
    problem: EquationProblem,
    seed: int,
    clock: Clock,
    rate: float | None,
    loops: dict[str, FirstOrderLoop],
    sample: int | None = None,
) -> None:
    """Trains once.

    Args:
      name: One of `METHODS`.
      problem: The problem.
      seed: The seed of the initial weights.
      clock: The clock, which takes the errors down.
      rate: The rate at the first step, for methods that have one.
      loops: Compiled loops by name, which serve later runs.
      sample: The number of points that a step of a method with a rate draws, and the first one of
        growing samples; None for all, and for a sixteenth.
    """
    start = problem.task.initialize(seed)
    if name == "tf-levenberg-marquardt":
        tf_levenberg_marquardt.run(problem, start, clock)
        return
    first = "adam" if name == "adam then l-bfgs" else name
    if first in _FIRST_ORDER:
        if first not in loops:
            loops[first] = FirstOrderLoop(first, problem, sample)
        share = _ADAM_SHARE if first != name else 1.0
        start = loops[first].run(start, clock, rate or 3e-3, share * clock.budget)
        if first == name:
            return
        name = "l-bfgs"
    objective, growing = problem.objective(), None
    method: Any = name
    if name == "lm on growing samples":
        method, growing = mlhf.LevenbergMarquardt(), sample or GROWING
        _compile_ahead(method, GrowingSample(objective, growing), objective, start)
    mlhf.minimize(
        objective,
        start,
        method,
        steps=10**7,
        sample=growing,
        callback=lambda step, parameters, metrics: clock.over(parameters),
        progress=False,
    )


def _compile_ahead(method: Any, samples: GrowingSample, objective: Any, start: Any) -> None:
    """Compiles the steps for every size of a sample, as those of all methods are."""
    with of_several_sizes():
        size = sum(leaf.shape.num_elements() for leaf in tf.nest.flatten(start))
        for one in samples.of_each_size(objective):
            # A step on more takes a minute; where it comes at all its compilation is counted.
            if one.batch_size() * size <= _COMPILED_AHEAD:
                method.step(one, start, method.init(start))
