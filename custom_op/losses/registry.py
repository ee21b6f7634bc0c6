"""The losses that are known by a name."""

from __future__ import annotations

from custom_op.losses.base import Loss

_LOSSES: dict[str, Loss] = {}


def register_loss(name: str, loss: Loss) -> None:
    """Makes a loss known by a name.

    Args:
      name: The name that `get` and every argument `loss=` then take.
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
      loss: A name, such as `"softmax_cross_entropy"`, or a `Loss`.

    Returns:
      The loss.

    Raises:
      ValueError: If nothing has that name.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str) or loss not in _LOSSES:
        raise ValueError(
            f"Expected a loss, one of {names()} or a custom_op.losses.Loss, got {loss!r}; "
            "register another with custom_op.losses.register_loss."
        )
    return _LOSSES[loss]
