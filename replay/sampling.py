"""One draw from a replay: its points, its importance weights, and the sample returned."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from replay.files.structure import Structure


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A batch of k snapshots, as `PrioritizedReplay.sample` returns it.

    Attributes:
      ids: int64 [k], for `update`; an id can occur more than once.
      snapshots: A list of k structures of arrays. They belong to the caller, who may change them.
      weights: float64 [k], the importance weights, at most 1.
      probabilities: float64 [k], each snapshot's P(i) at the time of the draw.
      beta: The exponent β of the weights.
    """

    ids: NDArray[np.int64]
    snapshots: list[Structure]
    weights: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    beta: float

    def __len__(self) -> int:
        """The size k of the batch."""
        return len(self.snapshots)


def stratified_points(generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Draws one uniform point from each of `size` equal parts of [0, 1).

    Through the inverse of a cumulative distribution this gives every item i an expected count of
    exactly size · P(i), with less variance than independent draws; size 1 is one draw from P
    (Schaul et al. 2016, arXiv 1511.05952, appendix B.2.1).

    Args:
      generator: A random generator, of which `size` uniform numbers are drawn.
      size: The number of points.

    Returns:
      float64 [size], rising.
    """
    points = (np.arange(size) + generator.random(size)) / size
    return np.minimum(points, np.nextafter(1.0, 0.0))  # the last may round up to 1


def importance_weights(
    probabilities: NDArray[np.float64], smallest: float, beta: float
) -> NDArray[np.float64]:
    """Returns w_i = (N · P(i))^-β / max_j w_j = (min_j P(j) / P(i))^β.

    The maximum is over the whole replay, not over the batch: a weight then depends on the snapshot
    alone and not on the rest of the batch, and is meaningful in a batch of one. N cancels
    (Schaul et al. 2016, arXiv 1511.05952, section 3.4).

    Args:
      probabilities: The P(i), float64 [k].
      smallest: The smallest probability in the replay, min_j P(j).
      beta: The exponent β; 0 gives ones, 1 corrects for the non-uniform draws in full.

    Returns:
      float64 [k], in (0, 1].
    """
    weights: NDArray[np.float64] = (smallest / probabilities) ** beta
    return weights


def annealed(beta: float, beta_steps: int | None, step: int) -> float:
    """Returns β at a step: linear from `beta` at step 0 to 1 at step `beta_steps`, then 1.

    Args:
      beta: The exponent β at step 0.
      beta_steps: The number of steps to reach 1; None keeps `beta` forever.
      step: The step, not negative.

    Returns:
      β, from `beta` to 1.
    """
    if beta_steps is None:
        return beta
    fraction = min(step / beta_steps, 1.0)
    return beta * (1.0 - fraction) + fraction  # exactly 1 at the end, for every beta
