"""Which loss, targets and weights belong to which output of a model, as `compile` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import custom_op
from mlhf.keras import losses


class Output(NamedTuple):
    """An output that is compared with targets."""

    place: int  # among the outputs, flat
    name: str | None
    loss: custom_op.losses.Loss
    activation: str | None  # what is taken off the output, since the loss applies it itself
    is_activated: bool
    by_weights: bool
    weight: float  # of the loss in the sum


def names_of(model: Any, outputs: Any) -> list[str | None]:
    """Returns the names of a model's outputs, flat.

    Args:
      model: The model.
      outputs: What it returns: a tensor, or a list, tuple or dictionary of tensors.

    Raises:
      ValueError: If outputs are nested more deeply.
    """
    parts = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    if isinstance(outputs, Mapping):
        parts = [outputs[name] for name in sorted(outputs)]
    if any(isinstance(part, (list, tuple, Mapping)) for part in parts):
        raise ValueError(
            f"Expected outputs in a list or a dictionary, got {model.name!r} with lists inside: "
            "return them flat."
        )
    if isinstance(outputs, Mapping):
        return sorted(outputs)
    known = getattr(model, "output_names", None)
    return list(known) if known and len(known) == len(parts) else [None] * len(parts)


def compared(
    loss: Any, loss_weights: Any, names: Sequence[str | None], pairs: Sequence[tuple[Any, Any]]
) -> list[Output]:
    """Returns the outputs that have a loss.

    Args:
      loss: The losses, as `compile` takes them.
      loss_weights: The weights of the losses, as `compile` takes them.
      names: The outputs' names.
      pairs: The targets and the outputs, flat, for `"crossentropy"`.

    Raises:
      ValueError: If there is no loss, or losses and outputs do not fit.
    """
    given = _by_place("loss", loss, names, several=len(names))
    weights = _by_place("loss_weights", loss_weights, names, several=len(names))
    found = []
    for place, (name, one, weight) in enumerate(zip(names, given, weights, strict=True)):
        if one is None:
            continue
        if isinstance(one, str) and one.lower() in ("crossentropy", "ce"):
            one = losses.crossentropy_for(*pairs[place])
        found.append(
            Output(place, name, *losses.resolve(one), 1.0 if weight is None else float(weight))
        )
    if not found:
        raise ValueError(
            "Expected a loss to train with, got none: mlhf.keras.compile(model, optimizer, "
            'loss="sparse_categorical_crossentropy").'
        )
    return found


def targets_of(y: Any, names: Sequence[str | None], given: Sequence[bool]) -> list[Any]:
    """Returns the targets of a model's outputs, flat; None where there are none.

    Args:
      y: The targets as `fit` takes them.
      names: The outputs' names.
      given: Whether each output has a loss: as in `fit`, targets may be those of these alone.

    Raises:
      ValueError: If there are not as many targets as outputs.
    """
    if y is None:
        raise ValueError("Expected targets to compare outputs with, got data without: fit(x, y).")
    if isinstance(y, (list, tuple)) and len(y) == sum(given) < len(names):
        parts = iter(y)
        return [next(parts) if wanted else None for wanted in given]
    if len(names) > 1 and not isinstance(y, (list, tuple, Mapping)):
        raise ValueError(
            f"Expected targets for {len(names)} outputs, {list(names)}, got one tensor."
        )
    return _by_place("targets", y, names, several=len(names))


def weights_of(weights: Any, names: Sequence[str | None]) -> list[Any]:
    """Returns the weights of examples for each output; one tensor stands for all.

    Args:
      weights: The weights as `fit` takes them.
      names: The outputs' names.
    """
    return _by_place("sample_weight", weights, names, several=len(names))


def _by_place(what: str, given: Any, names: Sequence[str | None], several: int) -> list[Any]:
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if len(given) == several == 1:
            return list(given.values())
        if unknown:
            raise ValueError(
                f"Expected {what} for outputs among {list(names)}, got some for {unknown}: name "
                "the output layers, or give a list."
            )
        return [given.get(name) for name in names]
    if isinstance(given, (list, tuple)):
        if len(given) != several:
            raise ValueError(
                f"Expected {what} for {several} outputs, {list(names)}, got {len(given)}."
            )
        return list(given)
    return [given] * several
