"""What a framework offers for measuring."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

OWN = "own"  # the method of a framework's own gradient
GRADIENT, GAUSS_NEWTON, HESSIAN = "gradient", "Gv", "Hv"


@dataclasses.dataclass(frozen=True)
class Measure:
    """A computation.

    Attributes:
      method: How a product is computed, or `OWN`.
      product: `GRADIENT`, `GAUSS_NEWTON` or `HESSIAN`.
      count: How many products, each of the last one's result, at one point.
      trace: Traces the computation where the framework does that, and returns the computation,
        which compiles what it needs at its first call and has ended when it returns.
      length: The length of the result, a number.
      reference: The name of the measure that this one approximates, and which stands before it.
      distance: The length of the difference of two results, where there is a reference.
    """

    method: str
    product: str
    count: int
    trace: Callable[[], Callable[[], Any]]
    length: Callable[[Any], float]
    reference: str | None = None
    distance: Callable[[Any, Any], float] | None = None

    @property
    def name(self) -> str:
        """What the measure is called, in requests and results."""
        return f"{self.method} {self.product} {self.count}"
