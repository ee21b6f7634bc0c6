"""The state of a replay as a small plain structure, without the snapshots themselves."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np

from replay.priorities.distribution import check_priority

_VERSION = 1
_ROWS = ("ids", "slots", "priorities", "checksums")
_KEYS = {"version", "serial", "settings", "next_id", "step", "generator", *_ROWS}


@dataclasses.dataclass(slots=True)
class Entry:
    """What a replay knows about one snapshot.

    Attributes:
      slot: The snapshot's place in the distribution.
      priority: Its priority.
      checksum: The checksum of its file; 0 in memory.
    """

    slot: int
    priority: float
    checksum: int


@dataclasses.dataclass(frozen=True)
class ReplayState:
    """Everything that decides what a replay does next, except the snapshots.

    Attributes:
      serial: The number of the state: the replay counts the states that it has returned.
      settings: The constructor's arguments by name.
      next_id: The id of the next snapshot.
      step: The step of the next sample, which β depends on.
      generator: The state of the random generator (PCG64), as NumPy gives it.
      entries: An entry for each id, oldest first.
    """

    serial: int
    settings: dict[str, Any]
    next_id: int
    step: int
    generator: dict[str, Any]
    entries: dict[int, Entry]

    def to_json(self) -> dict[str, Any]:
        """Returns the state as a dict of lists, numbers and strings.

        Floats are written in hexadecimal, which every JSON parser keeps bit for bit. The slots are
        part of the state because proportional draws go by slot.

        Returns:
          A dict with a key for each field of this class, the entries as four lists.
        """
        entries = self.entries.values()
        return {
            "version": _VERSION,
            "serial": self.serial,
            "settings": {key: _plain(value) for key, value in self.settings.items()},
            "next_id": self.next_id,
            "step": self.step,
            "generator": self.generator,
            "ids": list(self.entries),
            "slots": [entry.slot for entry in entries],
            "priorities": [entry.priority.hex() for entry in entries],
            "checksums": [entry.checksum for entry in entries],
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> ReplayState:
        """Reads what `to_json` returned.

        Args:
          state: The dict.

        Returns:
          The state.

        Raises:
          ValueError: If the dict has other keys, or its parts contradict each other.
        """
        if not isinstance(state, dict) or set(state) != _KEYS:
            got = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(
                f"expected what PrioritizedReplay.state() returned, a dict with the keys "
                f"{sorted(_KEYS)}, got {got}. Pass the dict on unchanged."
            )
        if state["version"] != _VERSION:
            raise ValueError(
                f"expected a replay state of version {_VERSION}, got version {state['version']}: "
                "restore it with the version of the package that wrote it"
            )
        try:
            return cls(
                serial=operator.index(state["serial"]),
                settings={key: _value(value) for key, value in state["settings"].items()},
                next_id=operator.index(state["next_id"]),
                step=operator.index(state["step"]),
                generator=_checked_generator(state["generator"]),
                entries=_checked_entries(state),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"the replay state contradicts itself ({error}): it was changed after "
                "PrioritizedReplay.state() returned it. Restore an unchanged one."
            ) from error


def _checked_generator(generator: Any) -> dict[str, Any]:
    np.random.PCG64().state = generator  # raises if it is not the state of a PCG64
    return dict(generator)


def _checked_entries(state: dict[str, Any]) -> dict[int, Entry]:
    ids = [operator.index(number) for number in state["ids"]]
    entries = [
        Entry(operator.index(slot), float.fromhex(priority), operator.index(checksum))
        for slot, priority, checksum in zip(*(state[row] for row in _ROWS[1:]), strict=True)
    ]
    for entry in entries:
        check_priority(entry.priority)
    if any(later <= earlier for earlier, later in zip(ids, ids[1:], strict=False)):
        raise ValueError("its ids do not rise")
    if ids and not 0 <= ids[0] <= ids[-1] < state["next_id"]:
        raise ValueError("its ids are not below its next id")
    if len({entry.slot for entry in entries}) != len(entries):
        raise ValueError("two of its snapshots share a slot")
    return dict(zip(ids, entries, strict=True))


def _plain(value: Any) -> Any:
    return {"float": value.hex()} if isinstance(value, float) else value


def _value(value: Any) -> Any:
    return float.fromhex(value["float"]) if isinstance(value, dict) else value
