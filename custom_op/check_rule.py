"""A test of R-forward rules: this package's and a user's own."""

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
    - <u, J v> = <Jᵀu, v>: the transpose is right;
    - J(2v + 3w) = 2 Jv + 3 Jw: the map is linear;
    - for `order=2`: the derivative of J v along w, by R-forward over R-forward and by
      `tf.GradientTape` over R-forward, against central finite differences of J v.

    For the checks the function is put between two other operations, as in a network: nothing else
    holds the tangents and cotangents that its rules read, so a kernel may overwrite them.

    The inputs should lie away from kinks, where finite differences are wrong. Testing your own
    rule takes one line::

        custom_op.check_rule(lambda x: tf.nn.softsign(x), np.linspace(-2, 2, 6))

    Args:
      function: A function from a structure of floating tensors to another, made of the operation
        and little else.
      inputs: A structure of tensors or arrays, cast to `dtype`.
      order: 1, or 2 for the second derivative too.
      dtype: The dtype to compute in: `tf.float64`, or `tf.float32` for an operation that supports
        nothing else, with a tolerance near 1e-2.
      tolerance: The largest difference from finite differences, relative to the largest entry.
      seed: The seed of the random directions.

    Raises:
      AssertionError: If a check fails; the message names it and shows both numbers.
      NotDifferentiableError: If an operation has neither a rule nor a usable gradient.
      ValueError: If `order` is neither 1 nor 2.
    """
    if order not in (1, 2):
        raise ValueError(f"Expected order=1 or order=2, got {order!r}.")
    inputs = tf.nest.map_structure(lambda leaf: tf.cast(leaf, dtype), inputs)
    checks = _Checks(_in_a_network(function, inputs), inputs, dtype, tolerance, seed)
    checks.first_order()
    if order == 2:
        checks.second_order()


class _Checks:
    """The checks of a function at a point, along two random directions."""

    def __init__(
        self,
        function: Callable[[Structure], Structure],
        inputs: Structure,
        dtype: tf.DType,
        tolerance: float,
        seed: int,
    ) -> None:
        self._function, self._inputs, self._tolerance = function, inputs, tolerance
        self._random = np.random.default_rng(seed)
        self._v, self._w = (_direction(self._random, inputs) for _ in range(2))
        self._epsilon = np.finfo(dtype.as_numpy_dtype).eps
        self._step = float(self._epsilon ** (1 / 3))
        self._noise = 10 * self._epsilon / self._step
        self._names: list[str] = []
        self._pushed: Leaves = []

    def first_order(self) -> None:
        """Checks J v, its transpose and its linearity."""

        @tf.function(autograph=False)
        def compute(inputs: Structure) -> Any:
            linear = linearize(self._value_at, inputs, unconnected="zero")
            u = _direction(self._random, linear.outputs)
            pushed, pulled = linear.jvp(self._v), tf.nest.flatten(linear.vjp(u))
            mixed = linear.jvp(tf.nest.map_structure(lambda a, b: 2 * a + 3 * b, self._v, self._w))
            separate = [2 * a + 3 * b for a, b in zip(pushed, linear.jvp(self._w), strict=True)]
            differences = _difference(self._value_at, inputs, self._v, self._step)
            products = _dot(u, pushed), _dot(pulled, tf.nest.flatten(self._v))
            return pushed, differences, linear.outputs, mixed, separate, products

        self._pushed, differences, outputs, mixed, separate, products = compute(self._inputs)
        left, right = products
        exact = 1e3 * self._epsilon
        self._compare("J v against finite differences", differences, self._pushed, outputs)
        _compare("J(2v + 3w) against 2 Jv + 3 Jw", self._names, separate, mixed, exact)
        _compare("<Jᵀu, v> against <u, Jv>", ["all"], [left], [right], exact, exact, self._pushed)

    def second_order(self) -> None:
        """Checks the derivative of J v, after the first order."""

        @tf.function(autograph=False)
        def compute(inputs: Structure) -> Any:
            forward = jvp(self._tangents_at, inputs, self._w)[1]
            differences = _difference(self._tangents_at, inputs, self._w, self._step)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                tangents = self._tangents_at(inputs)
                u = _direction(self._random, tangents)
                product = _dot(u, tangents)
            pulled = tape.gradient(product, inputs, unconnected_gradients="zero")
            along = _dot(tf.nest.flatten(pulled), tf.nest.flatten(self._w))
            return forward, differences, _dot(u, differences), along

        forward, differences, left, right = compute(self._inputs)
        what = "the derivative of J v against finite differences, "
        self._compare(what + "by R-forward", differences, forward, self._pushed)
        self._compare(what + "by a tape", [left], [right], self._pushed, ["all"])

    def _value_at(self, x: Structure) -> Leaves:
        outputs = self._function(x)
        self._names[:] = structures.leaf_names(outputs)
        return tf.nest.flatten(outputs)

    def _tangents_at(self, x: Structure) -> Leaves:
        return jvp(self._value_at, x, self._v)[1]

    def _compare(
        self,
        what: str,
        expected: Leaves,
        got: Leaves,
        source: Sequence[tf.Tensor],
        names: Sequence[str] | None = None,
    ) -> None:
        names = self._names if names is None else names
        _compare(what, names, expected, got, self._tolerance, self._noise, source)


def _in_a_network(
    function: Callable[[Structure], Structure], inputs: Structure
) -> Callable[[Structure], Structure]:
    """Puts a function between two others; the first maps the given inputs to themselves."""

    def before(leaf: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
        return leaf + 0.1 * tf.sin(leaf - at)

    def network(x: Structure) -> Structure:
        outputs = function(tf.nest.map_structure(before, x, inputs))
        return tf.nest.map_structure(lambda y: 1.1 * y, outputs)

    return network


def _direction(random: np.random.Generator, like: Structure) -> Structure:
    def draw(leaf: tf.Tensor) -> tf.Tensor:
        seed = random.integers(2**31 - 1, size=2)
        return tf.random.stateless_normal(tf.shape(leaf), seed, dtype=leaf.dtype)

    return tf.nest.map_structure(draw, like)


def _difference(
    function: Callable[[Structure], Leaves], x: Structure, direction: Structure, step: float
) -> Leaves:
    """Returns central differences along a direction, from one trace of the function."""
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
    """Raises if two lists differ by more than shares of their size and of their source's."""
    for name, a, b in zip(names, expected, got, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = max(np.max(np.abs(a), initial=0), np.max(np.abs(b), initial=0))
        floor = max([float(np.max(np.abs(leaf), initial=0)) for leaf in source], default=0.0)
        allowed = relative * scale + noise * floor
        error = np.abs(a - b)
        # Not "error > allowed": a NaN must fail too.
        if not np.all(error <= allowed):
            worst = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
            raise AssertionError(
                f"{what}, output {name!r}: expected {float(a[worst])!r} and got "
                f"{float(b[worst])!r} at index {tuple(int(i) for i in worst)}, "
                f"which differ by more than {allowed:.1e}."
            )
