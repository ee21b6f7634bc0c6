"""Loops, branches, calls and derivatives around a piece of a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.random_cases.networks.builder import Builder, Ref
from benchmarks.random_cases.networks.templates import TEMPLATES
from benchmarks.random_cases.networks.templates.base import ANY, Template, Value

# Operations without a kernel in XLA on CPU.
NOT_IN_XLA = frozenset(
    """CropAndResize EuclideanNorm ExtractVolumePatches InvGrad MaxPoolGradWithArgmax
    MaxPoolWithArgmax OptionalFromValue Range ResizeBicubic ResizeBicubicGrad
    ResizeNearestNeighborGrad ScaleAndTranslate
    ScatterNdNonAliasingAdd SegmentMean SegmentSum SparseSegmentMean SparseSegmentMeanGrad
    SparseSegmentSqrtN SparseSegmentSqrtNGrad SparseSegmentSum SparseSegmentSumGrad
    StatelessRandomPoisson TensorListConcat TensorListConcatLists TensorListPopBack
    TensorListPushBack TensorListPushBackBatch TensorListResize TensorListScatter
    TensorListScatterIntoExistingList TensorListScatterV2 TensorListSplit""".split()
)

CONTROLS: dict[str, Callable[[Builder, Ref, int], Ref]] = {}


def control(function: Callable[[Builder, Ref, int], Ref]) -> Callable[[Builder, Ref, int], Ref]:
    """Registers a control around a piece of a network, under the function's name."""
    CONTROLS[function.__name__] = function
    return function


def body(
    b: Builder, x: np.ndarray, depth: int, *, smooth: bool = False, twice: bool = False,
    shape: tuple[int, ...] | None = None,
    closed: bool = False,
) -> tuple[str, Ref]:  # fmt: skip
    """Writes a function of one or two random operations.

    Args:
      b: The program.
      x: The argument's value.
      depth: The largest depth of nested functions in it.
      smooth: Whether it may contain only operations without kinks.
      twice: Whether TensorFlow must differentiate it twice.
      shape: The shape of its result.
      closed: Whether it reads only its argument.

    Returns:
      The function's name and its result.
    """
    with b.function(x, closed) as made:
        value = made.argument
        for _ in range(1 + b.chance(0.4)):
            if depth > 0 and not (smooth or twice) and b.chance(0.15):
                value = around(b, value, depth - 1)
            else:
                value = b.apply(template(b, inner=True, smooth=smooth, twice=twice), value)
        made.result = value if shape is None else b.fit(value, shape)
    return made.name, made.result


def template(
    b: Builder, inner: bool = False, smooth: bool = False, twice: bool = False
) -> Template:
    """Draws an operation that may stand here."""
    allowed = [
        each
        for each in TEMPLATES
        if not (inner and "{key}" in each.expression)
        and not (smooth and not (each.smooth and _free(each)))
        and (each.kernels or not inner)
        and not (b.compiled and NOT_IN_XLA.intersection(each.ops))
        and not (twice and (each.first_order or not each.smooth))
    ]
    weights = np.array([each.weight for each in allowed])
    return allowed[b.random.choice(len(allowed), p=weights / weights.sum())]


def _free(each: Template) -> bool:
    """Whether it can stand in a loop: for any values, of any shape or of a small matrix."""
    values = [place for place in each.places.values() if isinstance(place, Value)]
    place = each.places["x"]
    small = isinstance(place.shape, str) or len(place.shape) <= 2
    return small and all(value.domain == ANY for value in values)


def around(b: Builder, x: Ref, depth: int = 1, name: str | None = None) -> Ref:
    """Writes a random control around a random body.

    Args:
      b: The program.
      x: The tensor that it is applied to.
      depth: The largest depth of nested functions.
      name: The name of the control; by default a random one.

    Returns:
      The result.
    """
    chosen = CONTROLS[name or b.draw(sorted(CONTROLS))]
    if x.value.size > 12:
        x = b.fit(x, (2, 3))
    return b.scaled(chosen(b, x, depth))


@control
def call(b: Builder, x: Ref, depth: int) -> Ref:
    """A called `tf.function`."""
    name, _ = body(b, x.value, depth)
    return b.let(f"call({name})({{0}})", x)


@control
def checkpoint(b: Builder, x: Ref, depth: int) -> Ref:
    """A piece that is recomputed instead of stored."""
    name, _ = body(b, x.value, depth, twice=True)
    return b.let(f"recompute({name})({{0}})", x)


def _two(b: Builder, x: Ref, depth: int) -> list[str]:
    shape = b.draw([x.shape, (2,), (2, 3)])
    names = [body(b, x.value, depth, shape=shape)[0] for _ in range(2)]
    if b.chance(0.2):
        names[1] = b.draw(["tf.identity", "tf.zeros_like"]) if shape == x.shape else names[1]
    return names


def _predicate(b: Builder, x: Ref) -> str:
    total = float(np.sum(x.value))
    if b.chance(0.3):
        return b.draw(["tf.constant(True)", "tf.constant(False)"])
    return f"tf.reduce_sum({{0}}) > {round(total + b.draw([-0.5, 0.5]), 2)}"


@control
def cond(b: Builder, x: Ref, depth: int) -> Ref:
    """A branch whose predicate depends on the data or is constant."""
    first, second = _two(b, x, depth)
    call = f"tf.cond({_predicate(b, x)}, lambda: {first}({{0}}), lambda: {second}({{0}}))"
    return b.let(call, x)


@control
def switch_case(b: Builder, x: Ref, depth: int) -> Ref:
    """A choice by a number."""
    first, second = _two(b, x, depth)
    return b.let(
        f"tf.switch_case(tf.cast({_predicate(b, x)}, tf.int32), "
        f"[lambda: {first}({{0}}), lambda: {second}({{0}})])",
        x,
    )


@control
def while_loop(b: Builder, x: Ref, depth: int) -> Ref:
    """A loop with or without a known bound."""
    name, _ = body(b, x.value, depth, smooth=True, shape=x.shape)
    count = b.draw([1, 2, 3])
    test = b.draw(
        [
            f"lambda i, h: i < {count}",
            f"lambda i, h: tf.logical_and(i < {count}, tf.reduce_sum(h) < 1000.0)",
        ]
    )
    bound = f", maximum_iterations={count}" if b.chance(0.8) else ""
    return b.let(f"tf.while_loop({test}, lambda i, h: (i + 1, {name}(h)), (0, {{0}}){bound})[1]", x)


def _rows(b: Builder, x: Ref) -> Ref:
    return x if x.shape and x.shape[0] <= 3 else b.fit(x, (2, 2))


@control
def map_fn(b: Builder, x: Ref, depth: int) -> Ref:
    """A function of each row."""
    x = _rows(b, x)
    name, _ = body(b, x.value[0], depth, smooth=True)
    return b.let(f"tf.map_fn({name}, {{0}}, fn_output_signature=tf.float64)", x)


@control
def scan(b: Builder, x: Ref, depth: int) -> Ref:
    """A recurrence along the rows."""
    x = _rows(b, x)
    name, _ = body(b, x.value[0], depth, smooth=True, shape=x.shape[1:])
    return b.let(f"tf.scan(lambda h, row: {name}(h) + row, {{0}})", x)


@control
def gradient(b: Builder, x: Ref, depth: int) -> Ref:
    """TensorFlow's own gradient of a piece."""
    name, result = body(b, x.value, 0)
    sizes = "".join(f", {size}" for size in result.shape)
    return b.let(f"{{0}} + pull({name}, {{0}}, const({b.seed()}{sizes}))", x)


@control
def tangent(b: Builder, x: Ref, depth: int) -> Ref:
    """A Jacobian-vector product of a piece."""
    name, _ = body(b, x.value, 0, twice=True)
    sizes = "".join(f", {size}" for size in x.shape)
    made = b.let(f"push({name}, {{0}}, const({b.seed()}{sizes}))", x)
    # The tangent of a linear piece does not depend on x.
    return b.let("{0} + {1}", b.fit(x, made.shape), made)


@control
def custom_gradient(b: Builder, x: Ref, depth: int) -> Ref:
    """A piece whose derivative in its argument a `tf.custom_gradient` defines."""
    name, _ = body(b, x.value, 0, twice=True, closed=True)
    return b.let(f"own_gradient({name})({{0}})", x)
