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
    "levenberg_marquardt": mlhf.LevenbergMarquardt,
    "martens_hessian_free": mlhf.MartensHessianFree,
    "muon": mlhf.Muon,
    "prodigy": mlhf.Prodigy,
    "schedule_free_adamw": mlhf.ScheduleFreeAdamW,
    "soap": mlhf.SOAP,
}
# Those that need the number of steps of the training, their first argument.
_WITH_HORIZON: dict[str, Callable[..., Any]] = {
    "curvature_muon": mlhf.CurvatureMuon,
    "meta_muon": mlhf.MetaMuon,
}
_ALIASES = {
    "hf": "hessian_free",
    "lm": "levenberg_marquardt",
    "martens": "martens_hessian_free",
    "meta": "mlhf",
}


def names() -> list[str]:
    """Returns the names that `mlhf.keras.compile` takes as an optimizer, sorted.

    Keras' own (`"adam"`) are not among them; `compile` takes those too.
    """
    return sorted([*_NAMES, *_WITH_HORIZON, "mlhf"])


def find(optimizer: Any, model: Any, steps: int | None = None) -> Any:
    """Returns the optimizer that a user named or gave.

    Args:
      optimizer: A name of `names()` or of a Keras optimizer, an optimizer of this package or with
        its methods `init` and `step`.
      model: The Keras model: `"mlhf"` is the meta-optimizer that knows its layers.
      steps: The number of steps of the training, for the names that need it.

    Raises:
      ValueError: If there is no optimizer of that name, or `steps` is missing or has no use.
      TypeError: If it is something else.
    """
    import keras

    if isinstance(optimizer, str):
        name = optimizer.lower().replace("-", "_").replace(" ", "_")
        name = _ALIASES.get(name, name)
        if name in _WITH_HORIZON:
            if steps is None:
                raise ValueError(
                    f'Expected the number of steps of the training for "{name}", got none: '
                    f'mlhf.keras.compile(model, "{name}", steps=epochs * batches_per_epoch, ...).'
                )
            return _WITH_HORIZON[name](steps)
        if name == "mlhf" and steps is not None:
            return mlhf.MetaHessianFree.from_pretrained(steps=steps)
    if steps is not None:
        raise ValueError(
            f"Expected steps= only with {sorted([*_WITH_HORIZON, 'mlhf'])} by name, got "
            f"steps={steps!r} with {optimizer!r}: give another optimizer a schedule, "
            'mlhf.Muon(mlhf.Schedule(0.02, "linear", steps)).'
        )
    if isinstance(optimizer, str):
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
