"""The direction of Muon's steps: orthogonalized momentum for kernels, Adam's for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.optimizers.gradient_methods.method import Leaves, adam_direction, average, zeros_like
from mlhf.optimizers.orthogonalization import Matrix, orthogonalize_all


class Moments(NamedTuple):
    """Averages over the gradients."""

    momentum: Leaves  # of the gradients, for each leaf
    second: Leaves  # of their squares, for each leaf that is no matrix


class OrthogonalMomentum(NamedTuple):
    """The rule of the directions; the attributes are those of `mlhf.Muon`."""

    forms: Sequence[Matrix | None]
    momentum: Any
    nesterov: bool
    iterations: int
    beta_1: float
    beta_2: float
    epsilon: float
    # By leaf, the share of the momentum itself in a kernel's direction, scalars; None for none.
    plain_shares: Sequence[tf.Tensor] | None = None

    def initial(self, leaves: Leaves) -> Moments:
        """Returns the moments before the first gradient, zeros."""
        others = [leaf for leaf, form in zip(leaves, self.forms, strict=True) if form is None]
        return Moments(zeros_like(leaves), zeros_like(others))

    def directions(
        self, gradient: Leaves, moments: Moments, count: tf.Tensor
    ) -> tuple[Leaves, Moments]:
        """Returns the directions that a step goes against, and the new moments.

        Args:
          gradient: The gradient, in the order of `tf.nest.flatten`.
          moments: The moments before the step.
          count: The number of the step, from 1.

        Returns:
          The directions, kernels' with singular values close to 1; and the moments after the step.
        """
        seconds = iter(moments.second)
        first, second, directions = [], [], []
        for m, g, form in zip(moments.momentum, gradient, self.forms, strict=True):
            if form is None:
                m = average(m, g, self.beta_1)
                second.append(average(next(seconds), tf.square(g), self.beta_2))
                numbers = count, self.beta_1, self.beta_2, self.epsilon
                directions.append(adam_direction(m, second[-1], *numbers))
            else:
                m = average(m, g, self.momentum)
                directions.append(average(m, g, self.momentum) if self.nesterov else m)
            first.append(m)
        made = orthogonalize_all(directions, self.forms, self.iterations)
        if self.plain_shares is not None:
            made = [
                u if form is None else u + share * (_at_length(m, form) - u)
                for u, m, form, share in zip(
                    made, directions, self.forms, self.plain_shares, strict=True
                )
            ]
        return made, Moments(first, second)


def _at_length(momentum: tf.Tensor, form: Matrix) -> tf.Tensor:
    """Returns a kernel's momentum at the Frobenius norm of an orthogonalized one."""
    norm = tf.norm(momentum)
    return momentum * tf.math.divide_no_nan(tf.sqrt(tf.cast(form.sides[1], norm.dtype)), norm)
