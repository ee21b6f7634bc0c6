"""The losses that can be chosen by name."""

from __future__ import annotations

from custom_op.losses.base import Loss
from custom_op.losses.keras_names import Meaning, meaning
from custom_op.losses.smoothing import smoothed
from custom_op.losses.softmax import SoftmaxCrossEntropy

_LOSSES: dict[str, Loss] = {}


def register_loss(name: str, loss: Loss) -> None:
    """Registers a loss under a name.

    Args:
      name: The name that `get` and every argument `loss=` then accept.
      loss: The loss.

    Raises:
      ValueError: If the name is taken.
      TypeError: If it is not a `Loss`.
    """
    if name in _LOSSES:
        raise ValueError(f"There is a loss named {name!r} already; choose another name.")
    if not isinstance(loss, Loss):
        raise TypeError(f"Expected an instance of custom_op.losses.Loss, got {loss!r}.")
    _LOSSES[name] = loss


def names() -> list[str]:
    """Returns the names of the losses, sorted."""
    return sorted(_LOSSES)


def get(loss: str | Loss) -> Loss:
    """Returns a loss by its name, or the loss itself.

    Args:
      loss: A name, such as `"softmax_cross_entropy"`, or a `Loss`; also a name, function or object
        of `keras.losses` that compares targets with outputs as a loss here does: `"mse"`, or a
        cross entropy with `from_logits=True`.

    Returns:
      The loss.

    Raises:
      ValueError: If no loss has that name, or a loss of Keras means something else.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in _LOSSES:
        return _LOSSES[loss]
    of_keras = meaning(loss)
    if of_keras is None:
        raise ValueError(
            f"Expected a loss, one of {names()} or a custom_op.losses.Loss, got {loss!r}; "
            "register another with custom_op.losses.register_loss."
        )
    if of_keras.activation is not None:
        raise ValueError(
            f"Expected a loss from logits, got {of_keras.title}, which compares probabilities: "
            f"give {of_keras.name!r} and outputs from before their {of_keras.activation}, or "
            "the Keras model itself to mlhf.Objective, which takes them there."
        )
    return of_meaning(of_keras)


def of_meaning(of_keras: Meaning) -> Loss:
    """Returns the loss from logits for a loss of Keras, ignoring the activation it expects."""
    if of_keras.ignored is not None:
        return SoftmaxCrossEntropy(ignore_index=of_keras.ignored)
    if of_keras.smoothing:
        return smoothed(of_keras.name, of_keras.smoothing)
    return _LOSSES[of_keras.name]
