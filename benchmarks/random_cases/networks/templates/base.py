"""Templates of operations for programs: expressions with places for their arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

# The domains of arguments: anywhere, above 0, within ±0.9, and away from all kinks and ties.
ANY, POSITIVE, UNIT, GRID = "any", "positive", "unit", "grid"


@dataclasses.dataclass(frozen=True)
class Value:
    """A place for a tensor.

    Attributes:
      shape: The required shape; or "any", "like" (that of x), "row" (its last axis), "scalar",
        "broadcast" (one of these three).
      rank: The least and the largest rank, for the shape "any".
      domain: The domain of its entries.
      constant: Whether it must not depend on parameters.
    """

    shape: Any = "any"
    rank: tuple[int, int] = (0, 3)
    domain: str = ANY
    constant: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """A place for a text, drawn from several."""

    texts: tuple[str, ...]


class Axis:
    """A place for an axis of x."""


@dataclasses.dataclass(frozen=True)
class Template:
    """One or several operations as a part of a network.

    Attributes:
      ops: The types of operation that it tests; its graph contains them.
      expression: Python, with `{x}` and other places.
      places: The contents of the places, by name.
      smooth: Whether the value has all derivatives for all arguments, so that it may stand in a
        loop.
      single: Whether it computes in float32.
      first_order: Whether TensorFlow's own derivative of its gradient is wrong or missing, so
        that it must not stand in a gradient that is a part of a network.
      kernels: Whether TensorFlow has all kernels of its gradient on CPU.
      weight: The frequency relative to others.
    """

    ops: tuple[str, ...]
    expression: str
    places: dict[str, Any]
    smooth: bool
    single: bool
    first_order: bool
    kernels: bool
    weight: float


# Expressions for which TensorFlow's own gradients are wrong or incomplete: they leave out the fill
# value, labels in a slope, and entries that were gathered or written twice.
INCOMPLETE = (
    "padding_value", "constant_values", "SoftmaxCrossEntropyWithLogits(", "dynamic_stitch([[0, 2",
    ".gather([2, 0, 2])", "scatter_nd_update",
)  # fmt: skip

TEMPLATES: list[Template] = []


def op(
    ops: str,
    expression: str,
    *,
    smooth: bool | None = None,
    single: bool | None = None,
    first_order: bool = False,
    kernels: bool = True,
    weight: float = 1.0,
    **places: Any,
) -> None:
    """Registers a template.

    Args:
      ops: The types of operation, separated by spaces.
      expression: Python, with places.
      smooth: See `Template`; by default true if no place is a `GRID`.
      single: See `Template`; by default true if the expression casts by `f32`.
      first_order: See `Template`.
      kernels: See `Template`.
      weight: See `Template`.
      **places: The contents of the places: a `Value`, a list (a `Value` of that shape), a tuple of
        texts (a `Choice`), or an `Axis`. The default of a place `x` is `Value()`.
    """
    made: dict[str, Any] = {}
    if "{x}" in expression and "x" not in places:
        made["x"] = Value()
    for name, place in places.items():
        if isinstance(place, list):
            place = Value(place)
        elif isinstance(place, tuple):
            place = Choice(place)
        made[name] = place
    if smooth is None:
        smooth = not any(isinstance(p, Value) and p.domain == GRID for p in made.values())
    if any(word in expression for word in INCOMPLETE):
        first_order = True
    if single is None:
        single = "f32(" in expression
    # x first: other places take their shapes from it.
    made = {name: made[name] for name in sorted(made, key=lambda name: name != "x")}
    TEMPLATES.append(
        Template(tuple(ops.split()), expression, made, smooth, single, first_order, kernels, weight)
    )


def each(table: Sequence[tuple[str, str]], **settings: Any) -> None:
    """Registers templates that differ in operation and expression only.

    Args:
      table: Pairs of types of operation and expression.
      **settings: Further arguments of `op`.
    """
    for ops, expression in table:
        op(ops, expression, **settings)
