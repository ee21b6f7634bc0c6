"""The PyPI package tf-levenberg-marquardt on an equation.

The package minimizes the squares of one Keras model's outputs on one tensor of inputs. All points
therefore stand in one tensor, with the residual of each that belongs to its term, scaled by the
root of the term's weight.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.equal_seconds.clock import Clock
from train_val.problems.equation_problem import EquationProblem


class Residuals(keras.Model):
    """All terms' residuals at points that say in one more column to which term they belong."""

    def __init__(self, problem: EquationProblem, start: Any) -> None:
        """Makes variables of the parameters.

        Args:
          problem: The problem.
          start: The parameters to start from.
        """
        super().__init__(dtype="float64")
        self._terms = list(problem.equation.terms.values())
        self._start = start
        self._leaves = [
            self.add_weight(
                shape=leaf.shape, name=f"w{number}", initializer="zeros", dtype="float64"
            )
            for number, leaf in enumerate(tf.nest.flatten(start))
        ]
        for variable, leaf in zip(self._leaves, tf.nest.flatten(start), strict=True):
            variable.assign(leaf)
        self.built = True

    @property
    def parameters(self) -> Any:
        """The parameters in their structure."""
        leaves = [variable.value for variable in self._leaves]
        return tf.nest.pack_sequence_as(self._start, leaves)

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the residual of each row, [N, 1]."""
        del training
        points, which = rows[:, :-1], rows[:, -1:]
        residuals, number = tf.zeros_like(which), 0
        for term in self._terms:
            found = _scale(term, self._terms) * term.residual(self.parameters, points)
            for column in range(term.targets.shape[1]):
                residuals = tf.where(which == number, found[:, column : column + 1], residuals)
                number += 1
        return residuals


def _scale(term: Any, terms: list[Any]) -> float:
    """Returns what makes the mean of squares over all rows the sum of the terms' losses."""
    rows = sum(each.targets.size for each in terms)
    return float(np.sqrt(term.weight * rows / len(term.points)))


def run(problem: EquationProblem, start: Any, clock: Clock) -> None:
    """Trains until the clock is over or the package ends.

    Args:
      problem: The problem.
      start: The parameters to start from.
      clock: The clock.
    """
    import tf_levenberg_marquardt as package

    terms = list(problem.equation.terms.values())
    # A row for each column of a term's residuals, whose number is the row's last input.
    rows: list[Any] = []
    targets: list[Any] = []
    for term in terms:
        for column in term.targets.T:
            number = np.full((len(term.points), 1), float(len(rows)))
            rows.append(np.hstack([term.points, number]))
            targets.append(_scale(term, terms) * column[:, np.newaxis])
    inputs, outputs = tf.constant(np.concatenate(rows)), tf.constant(np.concatenate(targets))
    model = Residuals(problem, start)
    trainer = package.training.Trainer(
        model, keras.optimizers.SGD(1.0), package.loss.MeanSquaredError(), solve_method="solve"
    )
    trainer.backup_variables()
    while True:
        *_, stop = trainer.train_step(inputs, outputs)
        if clock.over(model.parameters) or stop:
            break
