"""Directions of length one: orthogonalised momentum for matrices, Adam's for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.optimizers.orthogonalization import Matrix, orthogonalize_all

# The size of an entry: Adam's steady root mean square is near it, so both kinds share a rate.
_SIZE = 0.2


class Moments(NamedTuple):
    """What the directions remember of earlier gradients."""

    first: Any  # m, a running mean of gradients, in the structure of the parameters
    second: tuple[tf.Tensor, ...]  # v, of their squares, for each leaf that is no matrix


def initial_moments(parameters: Any, forms: Sequence[Matrix | None]) -> Moments:
    """Returns the moments before the first gradient, zeros.

    Args:
      parameters: A structure of tensors.
      forms: The leaves' forms as matrices, as from `orthogonalization.matrices`.
    """
    leaves = zip(tf.nest.flatten(parameters), forms, strict=True)
    second = tuple(tf.zeros_like(leaf) for leaf, form in leaves if form is None)
    return Moments(tf.nest.map_structure(tf.zeros_like, parameters), second)


def direct(
    gradient: Any,
    moments: Moments,
    count: tf.Tensor,
    forms: Sequence[Matrix | None],
    beta_1: float,
    beta_2: float,
    epsilon: float,
    iterations: int,
) -> tuple[Any, Moments]:
    """Returns the directions of a step, which goes against them, and the new moments.

    With m ← β₁ m + (1 - β₁) g, the direction of a matrix is 0.2 √(longer side) times the nearest
    semi-orthogonal matrix of Nesterov's β₁ m + (1 - β₁) g. That of any other leaf is Adam's
    m̂ / (√v̂ + ε), with the same Nesterov's m.

    Args:
      gradient: g, in the structure of the parameters.
      moments: The moments before the step.
      count: The number of this step, from 1, in the parameters' dtype.
      forms: The leaves' forms as matrices, as from `orthogonalization.matrices`.
      beta_1: β₁, of the first moment.
      beta_2: β₂, of the second moment.
      epsilon: ε.
      iterations: The number of Newton-Schulz iterations.
    """
    leaves, firsts = tf.nest.flatten(gradient), tf.nest.flatten(moments.first)
    first = [beta_1 * m + (1 - beta_1) * g for g, m in zip(leaves, firsts, strict=True)]
    ahead = [beta_1 * m + (1 - beta_1) * g for g, m in zip(leaves, first, strict=True)]
    directions = orthogonalize_all(ahead, forms, iterations)
    second: list[tf.Tensor] = []
    for place, form in enumerate(forms):
        if form is not None:
            directions[place] *= _SIZE * form.sides[0] ** 0.5
            continue
        v = beta_2 * moments.second[len(second)] + (1 - beta_2) * tf.square(leaves[place])
        second.append(v)
        # The weights of all gradients in `ahead` add up to 1 - β₁ᵗ⁺¹.
        unbiased = ahead[place] / (1 - beta_1 ** (count + 1))
        directions[place] = unbiased / (tf.sqrt(v / (1 - beta_2**count)) + epsilon)
    pack = tf.nest.pack_sequence_as
    return pack(gradient, directions), Moments(pack(gradient, first), tuple(second))
