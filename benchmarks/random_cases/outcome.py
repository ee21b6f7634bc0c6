"""The outcome of a random case."""

from __future__ import annotations

import dataclasses
from typing import Any

OK = "ok"
FAILED = "failed"  # differs from the reference, or raises an unexpected error
REFUSED = "refused"  # an error of this project says what cannot be differentiated
NO_KERNEL = "no kernel"  # TensorFlow cannot run the case in this mode
NO_REFERENCE = "no reference"  # the reference is not accurate enough


@dataclasses.dataclass
class Outcome:
    """One random case, checked.

    Attributes:
      seed: The integer that the case is made from.
      modes: The results by mode (`"graph"`): one of the constants above.
      features: The components of the case, such as types of operations; the report counts them.
      notes: A sentence for each mode that is not `OK`, with the numbers.
      program: The case as executable text; stored if a mode failed or refused.
      checked: The compared quantities, such as `"J v"`.
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
        """Returns the outcome for JSON."""
        fields = dataclasses.asdict(self)
        if not {FAILED, REFUSED} & set(self.modes.values()):
            del fields["program"]
        return fields
