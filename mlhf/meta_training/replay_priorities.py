"""Which points of a training the replay stores, and how their priorities are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

# A snapshot is worth keeping unless its weights have grown out of proportion.
LARGEST_GROWTH = 1.2
LARGEST_LOG_PRIORITY = 50.0


def priority(meta_losses: Sequence[float]) -> float:
    """Returns the priority of a snapshot: exp of the mean meta loss of the rollouts from it.

    Args:
      meta_losses: The meta losses of the rollouts since training began at the snapshot, at least
        one. Their mean is bounded by ±50.
    """
    mean = sum(meta_losses) / len(meta_losses)
    return math.exp(min(max(mean, -LARGEST_LOG_PRIORITY), LARGEST_LOG_PRIORITY))


def is_worth_keeping(loss: float, norm: float, best_loss: float, best_norm: float) -> bool:
    """Returns whether the replay should store a point.

    Args:
      loss: The loss at the point.
      norm: The norm of its weights.
      best_loss: The loss at the last point that was stored.
      best_norm: The norm of that point's weights.
    """
    return loss < best_loss and norm < LARGEST_GROWTH * best_norm
