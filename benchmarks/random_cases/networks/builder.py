"""Writes a program line by line, and runs each line as it is written.

So the values of arguments are known when the next operation is drawn, and kinks can be avoided.
"""

from __future__ import annotations

import contextlib
import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.random_cases.networks import tools
from benchmarks.random_cases.networks.templates.base import (
    ANY,
    GRID,
    POSITIVE,
    UNIT,
    Axis,
    Choice,
    Template,
    Value,
)

PARAMETERS = 12  # the largest number of entries of all parameters together
SIZE = 16  # the largest number of entries of a value with a free shape
SHAPES: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3), (3, 2), (2, 1, 2))
# Operations whose shapes depend on values.
DYNAMIC = ("DynamicPartition", "Range", "OptionalGetValue", "SegmentSum", "SegmentMean")
PUT_INTO = {
    POSITIVE: ("tf.nn.softplus({0}) + 0.2", "tf.exp(0.4 * {0})", "tf.square({0}) + 0.3"),
    UNIT: ("0.8 * tf.tanh({0})", "0.7 * tf.sin({0})"),
}


@dataclasses.dataclass(eq=False)
class Ref:
    """A tensor of the program.

    Attributes:
      name: The name in the program.
      value: The value at the point.
      read: Whether anything reads it.
    """

    name: str
    value: np.ndarray
    read: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.value.shape


class Builder:
    """A program under construction.

    Attributes:
      random: The generator of all draws.
      parameters: The point, arrays by name.
      visible: The tensors that the next line may read, newest last.
      stops: The values of `stop`.
      templates: The templates used.
      compiled: Whether it may contain only operations that XLA can compile.
    """

    def __init__(self, random: np.random.Generator, compiled: bool = False) -> None:
        self.random, self.compiled = random, compiled
        self.parameters: dict[str, np.ndarray] = {}
        self.visible: list[Ref] = []
        self.stops = tools.Stops()
        self.templates: list[Template] = []
        self._scope: dict[str, Any] = {**tools.scope(self.stops, once=True), "p": {}}
        self._blocks: list[list[str]] = [[]]
        self._count = 0
        self._closed = False  # whether no new parameter may be read

    def draw(self, options: Sequence[Any]) -> Any:
        """Returns a random option."""
        return options[int(self.random.integers(len(options)))]

    def chance(self, share: float) -> bool:
        """Returns True with a probability."""
        return bool(self.random.uniform() < share)

    def seed(self) -> int:
        """Returns a short seed for a constant."""
        return int(self.random.integers(1000))

    def let(self, expression: str, *reads: Ref) -> Ref:
        """Writes a line and runs it.

        Args:
          expression: Python, with `{0}`, `{1}` for the tensors that it reads.
          *reads: The tensors that it reads.

        Returns:
          The tensor that it makes.
        """
        for i, ref in enumerate(reads):
            expression = expression.replace(f"{{{i}}}", ref.name)
            ref.read = True
        value = eval(expression, self._scope)
        self._count += 1
        name = f"v{self._count}"
        self._scope[name] = value
        self._blocks[-1].append(f"{name} = {expression}")
        made = Ref(name, np.asarray(value))
        self.visible.append(made)
        return made

    def parameter(self, shape: Sequence[int], domain: str = ANY) -> Ref:
        """Makes a new parameter with its values in a domain."""
        name = "abcdefghij"[len(self.parameters)]
        values = np.round(self.random.normal(size=shape), 2)
        if domain == POSITIVE:
            values = np.abs(values) + 0.4
        elif domain == UNIT:
            values = np.round(0.7 * np.tanh(values), 2)
        elif domain == GRID:
            values = tools.grid(self.seed(), *shape) + np.round(0.05 * np.tanh(values), 2)
        self.parameters[name] = values
        self._scope["p"][name] = tf.constant(values)
        return Ref(f'p["{name}"]', values)

    def room(self) -> int:
        """Returns the largest number of entries of a new parameter."""
        if self._closed:
            return -1
        return PARAMETERS - sum(values.size for values in self.parameters.values())

    def fit(self, ref: Ref, shape: Sequence[int]) -> Ref:
        """Gives a tensor a shape."""
        shape = tuple(shape)
        if ref.shape == shape:
            return ref
        sizes = ", ".join(map(str, shape))
        if int(np.prod(shape)) == ref.value.size:
            return self.let(f"tf.reshape({{0}}, [{sizes}])", ref)
        if shape and self.chance(0.3):
            return self.let(f"cycle({{0}}, {sizes})", ref)
        return self.let(f"mix({{0}}, {self.seed()}{', ' if shape else ''}{sizes})", ref)

    def into(self, ref: Ref, domain: str) -> Ref:
        """Maps a tensor's entries into a domain, unless they are there."""
        if domain == GRID and not _apart(ref.value):
            factor = 0.15 / max(0.15, float(np.max(np.abs(ref.value), initial=0)))
            sizes = "".join(f", {size}" for size in ref.shape)
            return self.let(f"{factor:.2g} * {{0}} + grid({self.seed()}{sizes})", ref)
        if (domain == POSITIVE and np.min(ref.value, initial=1) < 0.3) or (
            domain == UNIT and np.max(np.abs(ref.value), initial=0) > 0.85
        ):
            return self.let(self.draw(PUT_INTO[domain]), ref)
        return ref

    def scaled(self, ref: Ref) -> Ref:
        """Scales a tensor's entries to about one, so that they affect the next operations."""
        largest = float(np.max(np.abs(ref.value), initial=0))
        if not np.isfinite(largest):
            # TensorFlow's own derivatives, which stand for `push` here, may be NaN: those of
            # `reduce_euclidean_norm` in a cotangent of zeros are. Such a program has no reference.
            raise LookupError(f"{ref.name} is not finite in\n{self.text()}")
        if largest < 1e-6:
            sizes = "".join(f", {size}" for size in ref.shape)
            return self.let(f"{{0}} + const({self.seed()}{sizes})", ref)
        if largest > 3 or largest < 0.2:
            return self.let(f"{1 / largest:.1g} * {{0}}", ref)
        return ref

    def apply(self, template: Template, x: Ref | None) -> Ref:
        """Draws the arguments of a template and writes it.

        Args:
          template: The template.
          x: Its main argument; None for a new parameter.

        Returns:
          The tensor that it makes.
        """
        texts: dict[str, str] = {}
        main: Ref | None = None
        for name, place in template.places.items():
            if isinstance(place, Choice):
                texts[name] = self.draw(place.texts)
            elif isinstance(place, Axis):
                assert main is not None
                texts[name] = str(int(self.random.integers(-len(main.shape), len(main.shape))))
            elif name == "x":
                main = self._main(place, x)
                texts[name] = main.name
            else:
                ref = self._argument(place, main)
                ref.read = True
                texts[name] = ref.name
        assert main is not None
        main.read = True
        expression = template.expression.replace("{key}", f"s{self._count}")
        for name, text in texts.items():
            expression = expression.replace(f"{{{name}}}", text)
        self.templates.append(template)
        made = self.let(expression)
        if any(
            op in DYNAMIC or op.startswith(("TensorList", "SparseSegment")) for op in template.ops
        ):
            unknown = made
            made = self.let(f"tf.ensure_shape({{0}}, {list(made.shape)})", unknown)
            self.visible.remove(unknown)
        return self.scaled(made)

    def _main(self, place: Value, x: Ref | None) -> Ref:
        shape = place.shape
        if shape == "any":
            low, high = place.rank
            shape = None if x is None else x.shape
            if shape is None or not low <= len(shape) <= high or np.prod(shape) > SIZE:
                shape = self.draw([s for s in SHAPES if low <= len(s) <= high])
        if x is None:
            if np.prod(shape) <= self.room():
                return self.parameter(shape, place.domain)
            x = self.visible[-1] if self.visible else self.parameter([3])
        return self.into(self.fit(x, shape), place.domain)

    def _argument(self, place: Value, main: Ref | None) -> Ref:
        assert main is not None
        shape = place.shape
        if shape == "broadcast":
            shape = self.draw(["like", "row", "scalar"] if main.shape else ["like"])
        shape = {"like": main.shape, "row": main.shape[-1:], "scalar": ()}.get(
            shape if isinstance(shape, str) else "", shape
        )
        if not place.constant and np.prod(shape) <= self.room() and self.chance(0.4):
            return self.parameter(shape, place.domain)
        if not place.constant and self.visible and self.chance(0.7):
            return self.into(self.fit(self.draw(self.visible), shape), place.domain)
        sizes = "".join(f", {size}" for size in shape)
        made = self.let(f"tf.constant(const({self.seed()}{sizes}))")
        self.visible.remove(made)  # nothing else needs it
        made.read = True
        return self.into(made, place.domain)

    @contextlib.contextmanager
    def function(self, x: np.ndarray, closed: bool = False) -> Iterator[Function]:
        """Begins a function of one tensor; the lines written inside are its body.

        Args:
          x: The argument's value.
          closed: Whether it reads nothing but its argument.

        Yields:
          The function: its `name`, its `argument`, and `result`, which the body must set.
        """
        self._count += 1
        made = Function(f"part{self._count}", Ref(f"h{self._count}", x))
        outer, was_closed = list(self.visible), self._closed
        self._closed = self._closed or closed
        if closed:
            self.visible = []
        self._scope[made.argument.name] = tf.constant(x)
        self.visible.append(made.argument)
        self._blocks.append([])
        yield made
        body = self._blocks.pop()
        assert made.result is not None
        made.result.read = True
        lines = [f"def {made.name}({made.argument.name}):"]
        lines += [f"    {line}" for line in [*body, f"return {made.result.name}"]]
        exec("\n".join(lines), self._scope)
        self._blocks[-1] += lines
        self.visible, self._closed = outer, was_closed

    def text(self, result: Ref | None = None) -> str:
        """Returns the program: a function `network` of the parameters."""
        lines = [line for block in self._blocks for line in block]
        if result is not None:
            lines.append(f"return {result.name}")
        return "def network(p):\n" + textwrap.indent("\n".join(lines), "    ")


@dataclasses.dataclass
class Function:
    """A function of one tensor in a program."""

    name: str
    argument: Ref
    result: Ref | None = None


def _apart(values: np.ndarray) -> bool:
    """Whether entries keep away from each other and from multiples of one half."""
    entries = np.sort(values.reshape(-1))
    halves = np.abs(entries - np.round(2 * entries) / 2)
    return bool(np.all(np.diff(entries) > 0.04) and np.all(halves > 0.03))
