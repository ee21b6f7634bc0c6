"""Everything that this package uses of Keras' private interface, in one place.

Each function says on which versions its use was seen. If a later version lacks something,
`tests/mlhf/test_keras_internals.py` fails and says what depends on it and what to do.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any


def layers_of(model: Any) -> list[Any]:
    """Returns a model and all layers inside it. Seen: Keras 3.5 to 3.15."""
    return list(model._flatten_layers())


def own_trainable_variables(layer: Any) -> list[Any]:
    """Returns a layer's trainable variables without its sublayers'. Seen: Keras 3.5 to 3.15."""
    return list(layer._trainable_variables)


def seeds_of(model: Any) -> list[Any]:
    """Returns the states of a model's random generators, which Keras does not save.

    Seen: Keras 3.5 to 3.15.
    """
    found = {
        id(generator.state): generator.state
        for layer in layers_of(model)
        for generator in getattr(layer, "_seed_generators", ())
    }
    return list(found.values())


def takes_training(model: Any) -> bool:
    """Returns whether `fit` tells a model that it trains. Seen: Keras 3.5 to 3.15."""
    known = getattr(model, "_call_has_training_arg", None)
    if known is None:
        return "training" in inspect.signature(model.call).parameters
    return bool(known)


def mask_of(outputs: Any) -> Any:
    """Returns the mask that a layer attached to its outputs, or None. Seen: Keras 3.5 to 3.15."""
    return getattr(outputs, "_keras_mask", None)


def set_mask(outputs: Any, mask: Any) -> None:
    """Attaches a mask to a layer's outputs, as layers do; None for none. Seen: Keras 3.5 to 3.15.

    Metrics read it there.
    """
    if mask is not None:
        outputs._keras_mask = mask


def makes_masks(model: Any) -> bool:
    """Returns whether a layer of a model may start a mask. Seen: Keras 3.5 to 3.15.

    Keras' own layers hand masks on, except `Embedding(mask_zero=True)` and `Masking`.
    """
    import keras

    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False):
            return True
        makes = type(layer).compute_mask
        if makes is not keras.Layer.compute_mask and not makes.__module__.startswith("keras."):
            return True
    return False


def loss_tracker(model: Any) -> Any:
    """Returns the metric of a compiled model's loss. Seen: Keras 3.5 to 3.15."""
    return model._loss_tracker


def loss_weights_of(model: Any) -> Any:
    """Returns the `loss_weights` that a model was compiled with. Seen: Keras 3.5 to 3.15."""
    return model._compile_loss._user_loss_weights


def is_recomputed(layer: Any) -> bool:
    """Whether `keras.RematScope` recomputes a layer. Seen: Keras 3.9 to 3.15, which have it."""
    return getattr(layer, "_remat_mode", None) is not None


def assignments(scope: Any) -> list[tuple[Any, Any]]:
    """Returns a list to which a scope adds every assignment, not just each variable's last.

    Seen: Keras 3.5 to 3.15, whose variables call `add_update((variable, value))`.

    Args:
      scope: A `keras.StatelessScope`.
    """
    updates: list[tuple[Any, Any]] = []
    add_update = scope.add_update

    def noting(update: tuple[Any, Any]) -> None:
        updates.append(update)
        add_update(update)

    scope.add_update = noting
    return updates


def learning_rate_of(optimizer: Any) -> Any:
    """Returns an optimizer's variable or schedule; its property evaluates a schedule.

    Seen: Keras 3.5 to 3.15.
    """
    return optimizer._learning_rate


def has_undecayed_variables(optimizer: Any) -> bool:
    """Whether `exclude_from_weight_decay` was given variables. Seen: Keras 3.5 to 3.15."""
    return bool(getattr(optimizer, "_exclude_from_weight_decay", None))


def has_exclusions(optimizer: Any) -> bool:
    """Whether `exclude_from_weight_decay` was called, which configs do not have. Seen: as above."""
    names = bool(getattr(optimizer, "_exclude_from_weight_decay_pattern", None))
    return names or has_undecayed_variables(optimizer)


def decay_like(optimizer: Any, variable: Any, original: Any) -> None:
    """Lets weight decay treat a variable as another one. Seen: Keras 3.5 to 3.15.

    Args:
      optimizer: The optimizer, not built yet.
      variable: A Keras variable.
      original: The Keras variable that `exclude_from_weight_decay` may have been given.
    """
    decays = optimizer._use_weight_decay(original.value)
    optimizer._exclude_from_weight_decay_cache[optimizer._var_key(variable)] = decays


@contextlib.contextmanager
def without_sum_over_replicas(optimizer: Any) -> Iterator[None]:
    """Leaves out an optimizer's sum of gradients over replicas. Seen: Keras 3.5 to 3.15.

    Args:
      optimizer: The optimizer whose `apply` is traced inside the block.
    """
    name = "_all_reduce_sum_gradients"
    if not hasattr(type(optimizer), name):
        yield
        return
    optimizer.__dict__[name] = list
    try:
        yield
    finally:
        del optimizer.__dict__[name]
