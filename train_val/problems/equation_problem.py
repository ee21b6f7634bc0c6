"""An equation as a problem: a network, residuals at points, and a reference solution."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import mlhf
from mlhf.checks.arguments import check_count, check_number
from train_val.data.order import shuffled_indices
from train_val.problems.array_problem import ArrayProblem, Examples

Residual = Callable[[Any, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Term:
    """A residual r(parameters, points), which should be the targets at its points.

    Attributes:
      residual: The function, [N, d] points to [N, 1].
      points: Its points, float64 [N, d].
      targets: What it should be, [N, 1].
      weight: The weight of ½ Σ (r - target)² / N in the loss.
    """

    residual: Residual
    points: np.ndarray
    targets: np.ndarray
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Equation:
    """What a family of equations returns.

    Attributes:
      solution: The network that stands for the solution, a function (parameters, points).
      initialize: A function from a seed to the network's initial parameters.
      terms: The residuals by name.
      test_points: The points at which the solution is compared, [N, d].
      reference: The solution there, [N, 1].
      kinds: The kinds of parameters that their paths do not tell, as for `mlhf.Task`.
    """

    solution: Residual
    initialize: Callable[[int], Any]
    terms: Mapping[str, Term]
    test_points: np.ndarray
    reference: np.ndarray
    kinds: Any = None


@dataclasses.dataclass(frozen=True)
class EquationProblem(ArrayProblem):
    """An equation with the measurements of a problem.

    Attributes:
      equation: The equation.
    """

    equation: Any = None

    @property
    def measured(self) -> str:
        """What `accuracy` returns."""
        return "relative L2 error"

    def accuracy(self, parameters: Any, model_state: Any = None) -> float:
        """Returns ‖u - u*‖ / ‖u*‖ over the test points, with the reference u*.

        Args:
          parameters: The parameters.
          model_state: Unused: an equation's network has none.
        """
        del model_state
        found = self._solution(parameters, tf.constant(self.equation.test_points)).numpy()
        reference = self.equation.reference
        return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))

    def training_loss(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the weighted sum of the terms' losses at all of their points."""
        del model_state
        return float(self._loss_at_all_points(self.objective(), parameters))

    def objective(self) -> mlhf.Objective:
        """Returns the objective at all points, for methods that take no batches."""
        terms = self.equation.terms
        inputs = {name: tf.constant(term.points) for name, term in terms.items()}
        targets = {name: tf.constant(term.targets) for name, term in terms.items()}
        return self.task.objective(inputs, targets)

    @property
    def normalised(self) -> bool:
        """Whether the network has moving statistics: no."""
        return False

    @property
    def image_fingerprint(self) -> str:
        """A digest that identifies points, targets and reference."""
        found = hashlib.sha256()
        arrays = [self.equation.test_points, self.equation.reference]
        for _, term in sorted(self.equation.terms.items()):
            arrays += [term.points, term.targets, np.array(term.weight)]
        for array in arrays:
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]

    @functools.cached_property
    def _solution(self) -> Callable[..., tf.Tensor]:
        return tf.function(self.equation.solution, autograph=False)

    @functools.cached_property
    def _loss_at_all_points(self) -> Callable[..., tf.Tensor]:
        def loss(objective: mlhf.Objective, parameters: Any) -> tf.Tensor:
            total = objective.data_loss(parameters)
            if objective.regularizer is not None:
                total += objective.regularizer.value(parameters)
            return total

        return tf.function(loss, autograph=False)


def of_equation(
    equation: Equation,
    name: str,
    *,
    title: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    weight_decay: float = 0.0,
) -> EquationProblem:
    """Returns the problem of an equation.

    Args:
      equation: The equation.
      name: The name of the problem.
      title: The beginning of the task's name; None for `name`.
      batch_size: The number of points per step, shared out among the terms by their numbers of
        points, at least one for each; None for all of them in every step.
      seed: The seed of the batches.
      weight_decay: The factor c in c/2 · Σ‖w‖².

    Returns:
      The problem.

    Raises:
      ValueError: If an argument makes no sense.
    """
    check_number("weight_decay", weight_decay, at_least=0)
    total = sum(len(term.points) for term in equation.terms.values())
    if batch_size is not None:
        check_count("batch_size", batch_size)
    share = 1.0 if batch_size is None else min(1.0, batch_size / total)
    counts = {n: max(1, round(share * len(t.points))) for n, t in equation.terms.items()}
    task = mlhf.Task(
        {name: term.residual for name, term in equation.terms.items()},
        dict.fromkeys(equation.terms, "squared_error"),
        equation.initialize,
        lambda start: _batches(equation.terms, counts, seed, start),
        kinds=equation.kinds,
        regularizer=mlhf.L2(weight_decay) if weight_decay else None,
        name=f"{title or name}, {sum(counts.values())} points"
        + (f", weight decay {weight_decay}" if weight_decay else ""),
        term_weights={name: term.weight for name, term in equation.terms.items()},
    )
    points = [term.points for term in equation.terms.values()]
    train = Examples(np.concatenate(points), np.zeros(total))
    test = Examples(equation.test_points, equation.reference)
    return EquationProblem(
        name, None, train, test, task, batch_size=sum(counts.values()), equation=equation
    )


def _batches(
    terms: Mapping[str, Term], counts: Mapping[str, int], seed: int, start: int
) -> Iterator[tuple[Any, Any]]:
    """Yields the endless batches from number `start` on, each a function of the seed and it."""
    arrays = {
        name: (tf.constant(term.points), tf.constant(term.targets)) for name, term in terms.items()
    }
    while True:
        inputs, targets = {}, {}
        for name, (points, values) in arrays.items():
            if counts[name] < len(points):
                chosen = shuffled_indices(len(points), counts[name], seed, start)
                points, values = tf.gather(points, chosen), tf.gather(values, chosen)
            inputs[name], targets[name] = points, values
        yield inputs, targets
        start += 1
