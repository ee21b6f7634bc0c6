"""The optimizers that `compile` knows by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlhf
from mlhf import keras_internals
from mlhf.checks.structures import kind

_NAMES: dict[str, Callable[..., Any]] = {
    "amuse": mlhf.AMUSE,
    "hessian_free": mlhf.HessianFree,
    "kfac": mlhf.KFAC,
    "martens_hessian_free": mlhf.MartensHessianFree,
    "muon": mlhf.Muon,
    "prodigy": mlhf.Prodigy,
    "schedule_free_adamw": mlhf.ScheduleFreeAdamW,
    "soap": mlhf.SOAP,
}
_ALIASES = {"hf": "hessian_free", "martens": "martens_hessian_free", "meta": "mlhf"}


def names() -> list[str]:
    """Returns the names that `mlhf.keras.compile` takes as an optimizer, sorted.

    Keras' own (`"adam"`) are not among them; `compile` takes those too.
    """
    return sorted([*_NAMES, "mlhf"])


def find(optimizer: Any, model: Any) -> Any:
    """Returns the optimizer that a user named or gave.

    Args:
      optimizer: A name of `names()` or of a Keras optimizer, an optimizer of this package or with
        its methods `init` and `step`.
      model: The Keras model: `"mlhf"` is the meta-optimizer that knows its layers.

    Raises:
      ValueError: If there is no optimizer of that name.
      TypeError: If it is something else.
    """
    import keras

    if isinstance(optimizer, str):
        name = optimizer.lower().replace("-", "_").replace(" ", "_")
        name = _ALIASES.get(name, name)
        if name == "mlhf":
            return mlhf.MetaHessianFree.from_pretrained(_pretrained_for(model))
        if name in _NAMES:
            return _NAMES[name]()
        try:
            return mlhf.FirstOrder(keras.optimizers.get(optimizer))
        except ValueError:
            raise ValueError(
                f"Expected the name of an optimizer, one of {names()} or of keras.optimizers, got "
                f"{optimizer!r}."
            ) from None
    if isinstance(optimizer, type):
        raise TypeError(
            f"Expected an optimizer, got the class {optimizer.__name__}: make one of it, "
            f"{optimizer.__name__}()."
        )
    if isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"Expected an optimizer of mlhf, got Keras' {type(optimizer).__name__}, which "
            "model.compile takes as it is; mlhf.FirstOrder makes it one of this package."
        )
    if not (
        callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "step", None))
    ):
        raise TypeError(
            f"Expected an optimizer of mlhf (or its name, one of {names()}), got {kind(optimizer)}."
        )
    return optimizer


def _pretrained_for(model: Any) -> str:
    """Returns the name of the shipped meta-optimizer that knows the kinds of a model's layers."""
    layers = keras_internals.layers_of(model)
    normalizes = any("normalization" in type(layer).__name__.lower() for layer in layers)
    return "resnet" if normalizes else "convnet"
