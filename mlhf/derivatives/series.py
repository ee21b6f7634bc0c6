"""Truncated Taylor series along several directions at once.

A tensor y that depends on points x is y(x + t v) = y₀ + y₁ t + y₂ t² + ... along each of K
directions v. All directions share y₀; the coefficients have a leading axis of length K. The highest
coefficient may be collapsed: a weighted sum over directions, with a leading axis of length 1. It is
passed on linearly, so that sums such as a Laplacian cost less than their terms (Dangel et al. 2025,
"Collapsing Taylor Mode Automatic Differentiation"; Li et al. 2023, "Forward Laplacian").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

# y₁ ... yₚ, [K, *shape] each; None for zero.
Coefficients: TypeAlias = list[tf.Tensor | None]


class Directions:
    """What all series of one propagation share: their order, and how the highest is collapsed."""

    def __init__(
        self, order: int, is_collapsed: bool = False, weights: tf.Tensor | None = None
    ) -> None:
        """Describes a propagation.

        Args:
          order: The highest order p.
          is_collapsed: Whether the highest coefficient is a sum over directions.
          weights: The weights of the directions in the sum, [K]; None for ones.
        """
        self.order = order
        self.is_collapsed = is_collapsed
        self._weights = weights

    def summed(self, coefficient: tf.Tensor) -> tf.Tensor:
        """Returns an uncollapsed coefficient's contribution to a highest one, collapsed if so."""
        if not self.is_collapsed:
            return coefficient
        if self._weights is None:
            return tf.reduce_sum(coefficient, 0, keepdims=True)
        shape = [-1] + [1] * (coefficient.shape.rank - 1)
        weights = tf.reshape(tf.cast(self._weights, coefficient.dtype), shape)
        return tf.reduce_sum(weights * coefficient, 0, keepdims=True)

    def add(self, terms: Sequence[tf.Tensor | None]) -> tf.Tensor | None:
        """Returns a sum, in which None stands for zero."""
        there = [term for term in terms if term is not None]
        return sum(there[1:], there[0]) if there else None

    def compose(self, slopes: Sequence[tf.Tensor | float | None], x: Coefficients) -> Coefficients:
        """Returns the coefficients of f(x), by Faà di Bruno's formula.

        Args:
          slopes: f', f'', ... at x₀, [*shape] each; None for zero.
          x: The coefficients of x.

        Returns:
          Its coefficients.
        """
        factors = [1.0, 2.0, 6.0, 24.0]
        a = [None if f is None else f / c for f, c in zip(slopes, factors, strict=False)]
        padded = [*x, None, None, None][:4]
        x1, x2, x3, _ = padded

        def square(y: tf.Tensor | None) -> tf.Tensor | None:
            return None if y is None else tf.square(y)

        x11 = square(x1)
        # What a coefficient of each order has besides f' xₖ: polynomials by the slope they go with.
        rest: list[Callable[[], dict[int, tf.Tensor | None]]] = [
            dict,
            lambda: {1: x11},
            lambda: {1: times(2.0, times(x1, x2)), 2: times(x1, x11)},
            lambda: {
                1: self.add([times(2.0, times(x1, x3)), square(x2)]),
                2: times(3.0, times(x11, x2)),
                3: square(x11),
            },
        ]
        composed: Coefficients = []
        for k in range(self.order):
            terms = [times(a[0], x[k])]
            for place, polynomial in rest[k]().items():
                if polynomial is not None and a[place] is not None:
                    # Summed over directions before it is multiplied: it is smaller then.
                    if k == self.order - 1:
                        polynomial = self.summed(polynomial)
                    terms.append(times(a[place], polynomial))
            composed.append(self.add(terms))
        return composed

    def product(
        self,
        multiply: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        a0: tf.Tensor,
        a: Coefficients | None,
        b0: tf.Tensor,
        b: Coefficients | None,
    ) -> Coefficients:
        """Returns the coefficients of a bilinear product, by Leibniz' rule.

        Args:
          multiply: The product, of values or coefficients.
          a0: The value of the first factor.
          a: Its coefficients; None for a constant.
          b0: The value of the second factor.
          b: Its coefficients.

        Returns:
          The coefficients of the product.
        """
        nothing: Coefficients = [None] * self.order
        first, second = nothing if a is None else a, nothing if b is None else b
        products: Coefficients = []
        for k in range(self.order):
            mixed = self.add(
                [
                    None if p is None or q is None else multiply(p, q)
                    for p, q in zip(first[:k], second[:k][::-1], strict=True)
                ]
            )
            if mixed is not None and k == self.order - 1:
                mixed = self.summed(mixed)
            ak, bk = first[k], second[k]
            products.append(
                self.add(
                    [
                        None if ak is None else multiply(ak, b0),
                        None if bk is None else multiply(a0, bk),
                        mixed,
                    ]
                )
            )
        return products


def times(a: tf.Tensor | float | None, b: tf.Tensor | float | None) -> tf.Tensor | None:
    """Returns a product, elementwise, in which None stands for zero."""
    return None if a is None or b is None else a * b


def fitted(coefficient: tf.Tensor, before: tf.TensorShape, after: tf.TensorShape) -> tf.Tensor:
    """Returns a coefficient of a tensor that was broadcast, broadcast likewise.

    Args:
      coefficient: The coefficient, [K, *before].
      before: The tensor's shape.
      after: Its shape after broadcasting, of static rank.

    Returns:
      The coefficient, [K, *after].
    """
    if before == after and before.is_fully_defined():
        return coefficient
    shape = tf.shape(coefficient)
    missing = [1] * (after.rank - before.rank)
    if missing:
        coefficient = tf.reshape(coefficient, tf.concat([shape[:1], missing, shape[1:]], 0))
    if after.is_fully_defined():
        return tf.broadcast_to(coefficient, [coefficient.shape[0] or shape[0], *after])
    return coefficient
