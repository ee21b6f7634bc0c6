"""A test of R-forward rules, for this package's own and for a user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures
from custom_op.linearization import jvp, linearize

Structure = Any
Leaves = list[tf.Tensor]


def check_rule(
    function: Callable[[Structure], Structure],
    inputs: Structure,
    *,
    order: int = 2,
    dtype: tf.DType = tf.float64,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Checks the derivative of a function, and so the rules of the operations in it.

    At the inputs and along random directions:

    - J v against central finite differences of the function;
    - <u, J v> = <Jᵀu, v>, that the transpose is one;
    - J(2v + 3w) = 2 Jv + 3 Jw, that the map is linear;
    - for `order=2`: the derivative of J v along w, by R-forward over R-forward and by
      `tf.GradientTape` over R-forward, against central finite differences of J v.

    The function stands between two other operations there, as in a network: nobody else holds the
    tangents and cotangents that its rules read, and a kernel may write over them.

    The inputs should lie away from kinks, where finite differences are wrong. A test of one's own
    rule is one line::

        custom_op.check_rule(lambda x: tf.nn.softsign(x), np.linspace(-2, 2, 6))

    Args:
      function: Takes a structure of floating tensors and returns one; made of the operation and
        little else.
      inputs: A structure of tensors or arrays, cast to `dtype`.
      order: 1, or 2 for the second derivative too.
      dtype: What to compute in: `tf.float64`, or `tf.float32` for an operation that has nothing
        else, with a tolerance near 1e-2.
      tolerance: The largest difference from finite differences, relative to the largest entry.
      seed: Of the random directions.

    Raises:
      AssertionError: If a check fails; it says which, and shows both numbers.
      NotDifferentiableError: If an operation has neither a rule nor a usable gradient.
      ValueError: If `order` is neither 1 nor 2.
    """
    if order not in (1, 2):
        raise ValueError(f"Expected order=1 or order=2, got {order!r}.")
    inputs = tf.nest.map_structure(lambda leaf: tf.cast(leaf, dtype), inputs)
    function = _in_a_network(function, inputs)
    random = np.random.default_rng(seed)
    v, w = (_direction(random, inputs) for _ in range(2))
    epsilon = np.finfo(dtype.as_numpy_dtype).eps
    step = float(epsilon ** (1 / 3))

    names: list[str] = []

    def value_at(x: Structure) -> Leaves:
        outputs = function(x)
        names[:] = structures.leaf_names(outputs)
        return tf.nest.flatten(outputs)

    def tangents_at(x: Structure) -> Leaves:
        return jvp(value_at, x, v)[1]

    @tf.function(autograph=False)
    def first_order(inputs):
        linear = linearize(value_at, inputs, unconnected="zero")
        u = _direction(random, linear.outputs)
        pushed, pulled = linear.jvp(v), tf.nest.flatten(linear.vjp(u))
        mixed = linear.jvp(tf.nest.map_structure(lambda a, b: 2 * a + 3 * b, v, w))
        separate = [2 * a + 3 * b for a, b in zip(pushed, linear.jvp(w), strict=True)]
        differences = _difference(value_at, inputs, v, step)
        products = _dot(u, pushed), _dot(pulled, tf.nest.flatten(v))
        return pushed, differences, linear.outputs, mixed, separate, products

    pushed, differences, outputs, mixed, separate, (left, right) = first_order(inputs)
    exact = 1e3 * epsilon
    noise = 10 * epsilon / step
    _compare(
        "J v against finite differences", names, differences, pushed, tolerance, noise, outputs
    )
    _compare("J(2v + 3w) against 2 Jv + 3 Jw", names, separate, mixed, exact)
    _compare("<Jᵀu, v> against <u, Jv>", ["all"], [left], [right], exact, exact, pushed)
    if order == 1:
        return

    @tf.function(autograph=False)
    def second_order(inputs):
        forward = jvp(tangents_at, inputs, w)[1]
        differences = _difference(tangents_at, inputs, w, step)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            tangents = tangents_at(inputs)
            u = _direction(random, tangents)
            product = _dot(u, tangents)
        pulled = tape.gradient(product, inputs, unconnected_gradients="zero")
        return (
            forward,
            differences,
            _dot(u, differences),
            _dot(tf.nest.flatten(pulled), tf.nest.flatten(w)),
        )

    forward, differences, left, right = second_order(inputs)
    what = "the derivative of J v against finite differences, "
    _compare(what + "by R-forward", names, differences, forward, tolerance, noise, pushed)
    _compare(what + "by a tape", ["all"], [left], [right], tolerance, noise, pushed)


def _in_a_network(
    function: Callable[[Structure], Structure], inputs: Structure
) -> Callable[[Structure], Structure]:
    """Puts a function between two others; the first leaves the inputs where they are."""

    def before(leaf, at):
        return leaf + 0.1 * tf.sin(leaf - at)

    def network(x):
        outputs = function(tf.nest.map_structure(before, x, inputs))
        return tf.nest.map_structure(lambda y: 1.1 * y, outputs)

    return network


def _direction(random: np.random.Generator, like: Structure) -> Structure:
    def draw(leaf):
        seed = random.integers(2**31 - 1, size=2)
        return tf.random.stateless_normal(tf.shape(leaf), seed, dtype=leaf.dtype)

    return tf.nest.map_structure(draw, like)


def _difference(
    function: Callable[[Structure], Leaves], x: Structure, direction: Structure, step: float
) -> Leaves:
    """Central differences of a function along a direction, of one trace of it for both sides."""
    traced = tf.function(function, autograph=False)
    ahead, behind = (
        traced(tf.nest.map_structure(lambda a, d, s=s: a + s * d, x, direction))
        for s in (step, -step)
    )
    return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


def _dot(left: Leaves, right: Leaves) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(left, right, strict=True)])


def _compare(
    what: str,
    names: Sequence[str],
    expected: Leaves,
    got: Leaves,
    relative: float,
    noise: float = 0.0,
    source: Sequence[tf.Tensor] = (),
) -> None:
    """Raises if two lists differ by more than a share of their size and of their source's."""
    for name, a, b in zip(names, expected, got, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = max(np.max(np.abs(a), initial=0), np.max(np.abs(b), initial=0))
        floor = max([float(np.max(np.abs(leaf), initial=0)) for leaf in source], default=0.0)
        allowed = relative * scale + noise * floor
        error = np.abs(a - b)
        # Not "error > allowed": a NaN has to fail too.
        if not np.all(error <= allowed):
            worst = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
            raise AssertionError(
                f"{what}, output {name!r}: expected {float(a[worst])!r} and got "
                f"{float(b[worst])!r} at index {tuple(int(i) for i in worst)}, "
                f"which differ by more than {allowed:.1e}."
            )
