"""Values, gradients, Laplacians and partial derivatives of a function, point by point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from custom_op import structures
from mlhf.derivatives.propagation import TracedFunction
from replay.numbers import check_count

Structure = Any
# How often each coordinate is differentiated by.
Index: TypeAlias = tuple[int, ...]

_HIGHEST = 4


class Laplacian(NamedTuple):
    """A function's value, gradient and Laplacian, structures like its outputs."""

    value: Any  # [B, ...]
    gradient: Any  # [B, ..., d], the coordinates last
    laplacian: Any  # [B, ...]


@tf.autograph.experimental.do_not_convert
def taylor(
    function: Callable[[tf.Tensor], Structure],
    points: Any,
    directions: Any,
    order: int = 2,
    *,
    allow_kinks: bool = False,
) -> list[Structure]:
    """Returns directional derivatives up to an order, along many directions at once.

    All orders come from one pass through the function, by Taylor mode (Griewank and Walther 2008,
    chapter 13). A row of the outputs may depend on its own point only, as in a network without
    batch normalization. Whatever is returned is made of ordinary operations: an objective's
    network may contain it, and gradients and curvature in the parameters follow. Called eagerly,
    the function is traced at each call, so put the work around it into a `tf.function`.

    Args:
      function: A function from points to a structure of floating tensors, one row per point. It
        closes over the parameters. It is called as it is: autograph does not convert it.
      points: The points, [B, ...], floating.
      directions: The directions, [K, ...] to be the same at all points, or [K, B, ...].
      order: The highest order p, 1 to 4.
      allow_kinks: Whether derivatives of order 2 and more may pass piecewise linear operations,
        such as ReLU's, as if these had no kink.

    Returns:
      p + 1 structures like the function's outputs: the value, [B, ...], then ∂ᵏ/∂tᵏ f(x + t v) at
      t = 0 for k from 1 to p, [K, B, ...].

    Raises:
      ValueError: If shapes do not fit, the order is out of range, or a kink is not allowed.
      TypeError: If points or outputs are not floating.
    """
    order = _check_order(order)
    points = _floating_points(points)
    directions = tf.convert_to_tensor(directions, points.dtype)
    rank = points.shape.rank
    same = directions.shape[1:].is_compatible_with(points.shape[1:])
    if same and directions.shape.rank == rank:
        directions = tf.expand_dims(directions, 1)
    elif not directions.shape[1:].is_compatible_with(points.shape) or directions.shape.rank is None:
        raise ValueError(
            f"Expected directions of shape [K, {', '.join(map(str, points.shape[1:]))}] or "
            f"[K, {', '.join(map(str, points.shape))}] for points of shape {points.shape}, got "
            f"{directions.shape}."
        )

    def derivatives(points: tf.Tensor) -> list[Structure]:
        traced = TracedFunction(function, points)
        if not allow_kinks:
            traced.check_smooth(order)
        count = tf.shape(directions)[:1] if directions.shape[0] is None else directions.shape[:1]
        along = tf.broadcast_to(directions, tf.concat([count, tf.shape(points)], 0))
        along = tf.ensure_shape(along, directions.shape[:1].concatenate(points.shape))
        series = traced.series(along, order)
        return [traced.outputs] + [
            tf.nest.pack_sequence_as(
                traced.outputs, [math.factorial(k + 1) * each[k] for each in series]
            )
            for k in range(order)
        ]

    return _in_graph(derivatives, points)


@tf.autograph.experimental.do_not_convert
def laplacian(
    function: Callable[[tf.Tensor], Structure],
    points: Any,
    coordinates: Sequence[int] | None = None,
    weights: Any = None,
    *,
    allow_kinks: bool = False,
) -> Laplacian:
    """Returns a function's value, gradient and Laplacian Σ ∂²f/∂xᵢ² at points.

    One pass, in which second derivatives are summed as they are made, so that d coordinates cost
    about d + 2 evaluations of the function.

    Args:
      function: A function as for `taylor`.
      points: The points, [B, d], floating.
      coordinates: The coordinates of the sum and of the gradient, by number; None for all.
      weights: The factors of the terms in the sum, [number of coordinates]; None for ones.
      allow_kinks: As for `taylor`.

    Returns:
      The three; the gradient has the coordinates as its last axis.

    Raises:
      ValueError: If points or coordinates make no sense, or a kink is not allowed.
      TypeError: If points or outputs are not floating.
    """
    points = _floating_points(points)
    size = _check_flat(points)
    chosen = list(range(size)) if coordinates is None else [int(i) for i in coordinates]
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(size)):
        raise ValueError(f"Expected different coordinates among 0 to {size - 1}, got {chosen}.")
    factors = None
    if weights is not None:
        factors = tf.convert_to_tensor(weights, points.dtype)
        if factors.shape != (len(chosen),):
            raise ValueError(f"Expected {len(chosen)} weights, got the shape {factors.shape}.")

    def derivatives(points: tf.Tensor) -> tuple[Structure, Structure, Structure]:
        traced = TracedFunction(function, points)
        if not allow_kinks:
            traced.check_smooth(2)
        series = traced.series(_along(np.eye(size)[chosen], points), 2, True, factors)
        gradients = [_last(first) for first, _ in series]
        sums = [2 * second[0] for _, second in series]
        like = traced.outputs
        pack = tf.nest.pack_sequence_as
        return traced.outputs, pack(like, gradients), pack(like, sums)

    return Laplacian(*_in_graph(derivatives, points))


@tf.autograph.experimental.do_not_convert
def partials(
    function: Callable[[tf.Tensor], Structure],
    points: Any,
    wanted: Sequence[Any],
    coordinates: Sequence[str] | str | None = None,
    *,
    allow_kinks: bool = False,
) -> list[Structure]:
    """Returns partial derivatives of a function at points, up to order 4, mixed ones too.

    For example a heat equation's residual::

        u_t, u_xx = mlhf.derivatives.partials(u, points, ["t", "xx"], "xt")
        residual = u_t - 0.1 * u_xx

    A derivative by one coordinate is one direction of Taylor mode; a mixed one is combined from
    several (by polarization; Griewank, Utke and Walther 2000), exactly but for rounding.

    Args:
      function: A function as for `taylor`.
      points: The points, [B, d], floating.
      wanted: The derivatives: each a word made of coordinates' names, `"xxy"` for ∂³/∂x²∂y, or a
        tuple of names or numbers, `(0, 0, 1)`; `""` or `()` for the value.
      coordinates: The names of the d coordinates, `"xyt"` or a list; None if all are numbers.
      allow_kinks: As for `taylor`.

    Returns:
      The derivatives in this order, each a structure like the function's outputs.

    Raises:
      ValueError: If a derivative is of an unknown coordinate or of order 5 and more, the points
        are not [B, d], or a kink is not allowed.
      TypeError: If points or outputs are not floating.
    """
    points = _floating_points(points)
    size = _check_flat(points)
    indices = [_index(each, size, coordinates) for each in wanted]
    combinations = {index: _combination(index) for index in indices if sum(index)}
    # The order to which each direction has to be followed.
    needed: dict[Index, int] = {}
    for index, combined in combinations.items():
        for direction in combined:
            needed[direction] = max(needed.get(direction, 0), sum(index))

    def derivatives(points: tf.Tensor) -> list[Structure]:
        traced = TracedFunction(function, points)
        if needed and not allow_kinks:
            traced.check_smooth(max(needed.values()))
        found: dict[tuple[Index, int], list[tf.Tensor]] = {}
        for order in sorted(set(needed.values())):
            group = [direction for direction, highest in needed.items() if highest == order]
            series = traced.series(_along(np.array(group), points), order)
            for place, direction in enumerate(group):
                for k in range(order):
                    found[direction, k + 1] = [
                        math.factorial(k + 1) * each[k][place] for each in series
                    ]
        results = []
        for index in indices:
            if not sum(index):
                results.append(traced.outputs)
                continue
            parts = [
                [factor * leaf for leaf in found[direction, sum(index)]]
                for direction, factor in combinations[index].items()
            ]
            summed = [tf.add_n(leaves) for leaves in zip(*parts, strict=True)]
            results.append(tf.nest.pack_sequence_as(traced.outputs, summed))
        return results

    return _in_graph(derivatives, points)


def _in_graph(derivatives: Callable[[tf.Tensor], Any], points: tf.Tensor) -> Any:
    if not tf.executing_eagerly():
        return derivatives(points)
    spec = tf.TensorSpec(points.shape, points.dtype)
    # Not by a call, which would make TensorFlow warn of retracing.
    return tf.function(derivatives, autograph=False).get_concrete_function(spec)(points)


def _combination(index: Index) -> dict[Index, float]:
    """Returns the directions v and factors with which ∂ᵅ = Σ factor · ∂ᵖ/∂tᵖ f(x + t v), p = |α|.

    For every multi-index β ≤ α, β ≠ 0, a direction β with (-1)^(p - |β|) Π binomial(αᵢ, βᵢ) / p!;
    a multiple of another direction is merged with it, since ∂ᵖ along cv is cᵖ times that along v.
    """
    if sum(count > 0 for count in index) == 1:
        return {tuple(min(count, 1) for count in index): 1.0}
    order = sum(index)
    factors: dict[Index, float] = {}
    for beta in itertools.product(*(range(count + 1) for count in index)):
        if not any(beta):
            continue
        factor = (-1.0) ** (order - sum(beta)) / math.factorial(order)
        factor *= math.prod(math.comb(a, b) for a, b in zip(index, beta, strict=True))
        divisor = math.gcd(*beta)
        direction = tuple(b // divisor for b in beta)
        factors[direction] = factors.get(direction, 0.0) + factor * divisor**order
    return {direction: factor for direction, factor in factors.items() if factor}


def _index(wanted: Any, size: int, names: Sequence[str] | str | None) -> Index:
    letters = list(wanted) if isinstance(wanted, (str, tuple, list)) else None
    known = None if names is None else list(names)
    if known is not None and (len(known) != size or len(set(known)) != size):
        raise ValueError(f"Expected {size} different names of coordinates, got {names!r}.")
    index = [0] * size
    for letter in [None] if letters is None else letters:
        if isinstance(letter, (int, np.integer)) and 0 <= letter < size:
            index[int(letter)] += 1
        elif known is not None and letter in known:
            index[known.index(letter)] += 1
        else:
            by_name = f" or names among {known}" if known else ""
            raise ValueError(
                f"Expected a derivative as a word or tuple of coordinates, numbers from 0 to "
                f"{size - 1}{by_name}, got {wanted!r}."
            )
    if sum(index) > _HIGHEST:
        raise ValueError(f"Expected derivatives up to order {_HIGHEST}, got {wanted!r}.")
    return tuple(index)


def _along(directions: Any, points: tf.Tensor) -> tf.Tensor:
    """Returns directions [K, d] at all points, [K, B, d]."""
    along = tf.constant(directions, points.dtype)[:, tf.newaxis]
    shape = tf.concat([[along.shape[0]], tf.shape(points)], 0)
    return tf.ensure_shape(tf.broadcast_to(along, shape), [along.shape[0], *points.shape])


def _last(first: tf.Tensor) -> tf.Tensor:
    """Returns [K, B, ...] as [B, ..., K]."""
    return tf.transpose(first, [*range(1, first.shape.rank), 0])


def _check_order(order: Any) -> int:
    order = check_count("order", order)
    if order > _HIGHEST:
        raise ValueError(f"Expected derivatives up to order {_HIGHEST}, got order {order}.")
    return order


def _floating_points(points: Any) -> tf.Tensor:
    (points,) = structures.flatten_floating(tf.convert_to_tensor(points), "points")
    if not points.shape.rank:
        raise ValueError(f"Expected points with a first axis that counts them, got {points.shape}.")
    return points


def _check_flat(points: tf.Tensor) -> int:
    size = points.shape[1] if points.shape.rank == 2 else None
    if size is None:
        raise ValueError(
            f"Expected points of shape [B, d], one row per point and d static, got {points.shape}."
        )
    return int(size)
