"""One draw from a replay: where the points lie, what they weigh, what comes back."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from replay.files.structure import Structure


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """What `PrioritizedReplay.sample` returns, for a batch of k snapshots.

    Attributes:
      ids: int64 [k], what `update` takes; an id can occur more than once.
      snapshots: list of k structures of arrays. They belong to the caller, who may change them.
      weights: float64 [k], the importance weights, at most 1.
      probabilities: float64 [k], P(i) of each at the time of the draw.
      beta: the exponent β of the weights.
    """

    ids: NDArray[np.int64]
    snapshots: list[Structure]
    weights: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    beta: float

    def __len__(self) -> int:
        """The size of the batch, k."""
        return len(self.snapshots)


def stratified_points(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draws one uniform point from each of `size` equal parts of [0, 1).

    Through the inverse of a cumulative distribution this gives every item i an expected count of
    exactly size · P(i), with less variance than independent draws; size 1 is one draw from P
    (Schaul et al. 2016, arXiv 1511.05952, appendix B.2.1).

    Args:
      generator: consumed by `size` uniform numbers.
      size: the number of points.

    Returns:
      float64 [size], rising.
    """
    points = (np.arange(size) + generator.random(size)) / size
    return np.minimum(points, np.nextafter(1.0, 0.0))  # the last can be rounded up to 1


def importance_weights(
    probabilities: NDArray[np.float64], smallest: float, beta: float
) -> NDArray[np.float64]:
    """w_i = (N · P(i))^-β / max_j w_j = (min_j P(j) / P(i))^β.

    The maximum is over the whole replay, not over the batch: a weight then depends on the snapshot
    alone and not on what it was drawn with, and means something in a batch of one. N cancels
    (Schaul et al. 2016, arXiv 1511.05952, section 3.4).

    Args:
      probabilities: P(i), float64 [k].
      smallest: min_j P(j) over the replay.
      beta: β; 0 gives ones, 1 corrects for the non-uniform draws in full.

    Returns:
      float64 [k], in (0, 1].
    """
    weights: NDArray[np.float64] = (smallest / probabilities) ** beta
    return weights


def annealed(beta: float, beta_steps: int | None, step: int) -> float:
    """β at a step: linear from `beta` at step 0 to 1 at step `beta_steps`, 1 from there on.

    Args:
      beta: β at step 0.
      beta_steps: how many steps it takes to reach 1; None keeps `beta` for ever.
      step: the step, not negative.

    Returns:
      β, from `beta` to 1.
    """
    if beta_steps is None:
        return beta
    fraction = min(step / beta_steps, 1.0)
    return beta * (1.0 - fraction) + fraction  # exactly 1 at the end, for every beta
