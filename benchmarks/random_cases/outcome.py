"""What became of one random case."""

from __future__ import annotations

import dataclasses
from typing import Any

OK = "ok"
FAILED = "failed"  # differs from the reference, or raises what it should not
REFUSED = "refused"  # an error of this project's names what cannot be differentiated
NO_KERNEL = "no kernel"  # TensorFlow cannot run the case in this mode
NO_REFERENCE = "no reference"  # the reference does not know its own digits


@dataclasses.dataclass
class Outcome:
    """One random case, checked.

    Attributes:
      seed: The integer that it is made from.
      modes: What became of it, by mode (`"graph"`): one of the constants above.
      features: What the case is made of, such as types of operations; the report counts them.
      notes: A sentence for each mode that is not `OK`, with the numbers.
      program: The case as text that can be run; kept where a mode failed or refused.
      checked: Which quantities were compared, such as `"J v"`.
    """

    seed: int
    modes: dict[str, str] = dataclasses.field(default_factory=dict)
    features: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    program: str = ""
    checked: list[str] = dataclasses.field(default_factory=list)

    def failed(self) -> bool:
        """Whether something is wrong in any mode."""
        return FAILED in self.modes.values()

    def record(self) -> dict[str, Any]:
        """Returns the outcome as JSON keeps it."""
        kept = dataclasses.asdict(self)
        if not {FAILED, REFUSED} & set(self.modes.values()):
            del kept["program"]
        return kept
