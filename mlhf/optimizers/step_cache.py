"""The compiled steps of an optimizer, one for each objective and shape, the last few of them."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

# A compiled step takes some megabytes. Two are usual: for full batches, and for the last one.
LARGEST = 16
# This many shapes of one objective, or functions used for one step each, are a mistake in a loop.
_TOO_MANY = 3


@dataclasses.dataclass
class _Entry:
    function: Callable[..., Any]
    batch: tuple[Any, ...]  # shapes and dtypes of inputs and targets
    other: tuple[Any, ...]  # those of the other arguments
    static: tuple[Any, ...]
    uses: int = 0


class StepCache:
    """Compiled functions by what they depend on; the least recently used are dropped first."""

    def __init__(self) -> None:
        """Starts empty."""
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._warned: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def get(
        self,
        static: tuple[Any, ...],
        batch: tuple[Any, ...],
        other: tuple[Any, ...],
        key: Any,
        make: Callable[[], Callable[..., Any]],
    ) -> Callable[..., Any]:
        """Returns the function for some arguments, a new one if there is none.

        Args:
          static: `Objective.static`.
          batch: The `signature` of inputs, targets and model state.
          other: The signature of the other arguments.
          key: Anything else that the function depends on.
          make: A function that makes it, to be called only with arguments of these shapes.
        """
        # Named tuples of two classes are equal if their fields are.
        whole = static, tuple(type(part) for part in static), key, batch, other
        entry = self._entries.get(whole)
        if entry is None:
            entry = _Entry(make(), batch, other, static)
            self._explain(entry)
            self._entries[whole] = entry
            while len(self._entries) > LARGEST:
                self._entries.popitem(last=False)
        self._entries.move_to_end(whole)
        entry.uses += 1
        return entry.function

    def _explain(self, new: _Entry) -> None:
        """Warns once, at the third time, of what makes a loop compile again and again."""
        kept = list(self._entries.values())
        shapes = [e for e in kept if e.static == new.static and e.other == new.other]
        if len(shapes) == _TOO_MANY - 1 and all(e.batch != new.batch for e in shapes):
            if len({_shapes(e.batch) for e in [*shapes, new]}) == 1:
                self._warn(
                    "structures",
                    "A step is compiled for the third time for batches of one shape, "
                    f"{_shapes(new.batch)}: each costs seconds and megabytes. Expected targets and "
                    "the model state to keep their shapes, dtypes and structure (a list stays a "
                    "list).",
                )
                return
            self._warn(
                "shapes",
                "A step is compiled for the third shape of a batch, "
                f"{_shapes(new.batch)} after {', '.join(_shapes(e.batch) for e in shapes)}: each "
                "costs seconds and megabytes. Expected batches of one size, and perhaps a smaller "
                "last one: batch with drop_remainder=True, or pad (inputs of many lengths: to a "
                "few lengths).",
            )
        last = kept[-(_TOO_MANY - 1) :]
        once = [e for e in last if e.uses == 1 and (e.batch, e.other) == (new.batch, new.other)]
        if len(once) == _TOO_MANY - 1:
            for place, what in enumerate(("network", "loss", "regularizer")):
                parts = [e.static[place] for e in [*once, new]]
                if len({id(part) for part in parts}) == _TOO_MANY and _made_alike(parts):
                    self._warn(
                        what,
                        f"A step is compiled for the third {what} in a row that took one "
                        f"step, {_name(parts[-1])}: each costs seconds and megabytes. Expected "
                        f"one {what} for all batches: make it once, outside of the loop.",
                    )

    def _warn(self, what: str, sentence: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(sentence, stacklevel=6)


def signature(structure: Any) -> tuple[Any, ...]:
    """Returns shapes, dtypes and places of the leaves of a structure of tensors, hashable."""
    leaves: list[Any] = []
    _note(structure, leaves)
    return tuple(leaves)


def _note(part: Any, leaves: list[Any]) -> None:
    if tf.is_tensor(part):
        leaves.append((part.shape, part.dtype))
    elif isinstance(part, Mapping):
        for name in sorted(part):
            leaves.append(name)
            _note(part[name], leaves)
        leaves.append(None)
    elif isinstance(part, (list, tuple)):
        leaves.append(type(part))
        for child in part:
            _note(child, leaves)
        leaves.append(None)
    else:
        # A structure that only TensorFlow knows.
        for leaf in tf.nest.flatten(part):
            leaves.append((getattr(leaf, "shape", None), getattr(leaf, "dtype", type(leaf))))


def _shapes(batch: tuple[Any, ...]) -> str:
    return str(next(leaf[0] for leaf in batch if type(leaf) is tuple))


def _made_alike(parts: list[Any]) -> bool:
    """Returns whether objects come from one place in the code: a function's body, or a class."""
    places = {id(_code(part)) for part in parts}
    # The function that stands for a Keras model is made once for each model.
    return len(places) == 1 and not str(getattr(parts[0], "__module__", "")).startswith("mlhf.")


def _code(part: Any) -> Any:
    part = getattr(part, "func", part)
    part = getattr(part, "__func__", part)
    return getattr(part, "__code__", type(part))


def _name(part: Any) -> str:
    code = _code(part)
    if inspect.iscode(code):
        return (
            f"{getattr(part, '__name__', 'a function')} ({code.co_filename}:{code.co_firstlineno})"
        )
    return f"a {type(part).__name__}"
