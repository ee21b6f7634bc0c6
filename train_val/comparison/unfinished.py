"""The run of a comparison that is under way, in a file: a kill costs minutes of it, not all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.optimizers.protocol import complete
from mlhf.runs.saving import Saving
from replay import DamagedFileError, read_structure, write_structure

FILE = "unfinished.npz"


@dataclasses.dataclass
class Point:
    """Where a run stands.

    Attributes:
      done: Steps done.
      elapsed: Seconds of training until there.
      parameters: A structure of tensors.
      state: The optimizer's.
      model_state: What else the network carries.
    """

    done: int
    elapsed: float
    parameters: Any
    state: Any
    model_state: Any


class Unfinished:
    """Keeps one run, under the key that its result will have."""

    def __init__(
        self, folder: str | Path | None, key: Mapping[str, Any], minutes: float = 5.0
    ) -> None:
        """Opens the file of a folder.

        Args:
          folder: Of the comparison; None keeps nothing.
          key: What the run depends on. What is kept under another key is left alone until this run
            is kept.
          minutes: As for `mlhf.runs.saving.Saving`.
        """
        self._path = None if folder is None else Path(folder) / FILE
        self._key, self._minutes = json.dumps(key, sort_keys=True), minutes

    def saving(self, steps: int, done: int) -> Saving:
        """Returns when the run is kept: every few minutes and when a signal comes."""
        return Saving(steps + 1, self._minutes, done=done, signals=self._path is not None)

    def keep(self, point: Point, curve: Mapping[str, Any], optimizer: Any) -> None:
        """Writes where the run stands, whole or not at all."""
        if self._path is None:
            return
        parameters, model_state = (
            [np.asarray(leaf) for leaf in tf.nest.flatten(part)]
            for part in (point.parameters, point.model_state)
        )
        state = complete(optimizer).to_saved(point.state, point.parameters)
        content = {
            "key": self._key,
            "done": point.done,
            "elapsed": point.elapsed,
            "curve": json.dumps(dict(curve)),
            "parameters": parameters,
            "model_state": model_state,
            "state": tf.nest.map_structure(np.asarray, state),
        }
        write_structure(self._path, content)

    def find(self, begin: Point, optimizer: Any) -> tuple[Point, dict[str, Any]] | None:
        """Returns where the run stood and its curve; None if nothing of it is kept.

        Args:
          begin: Where it begins: structures, shapes and dtypes.
          optimizer: The one that the state is of.
        """
        if self._path is None or not self._path.is_file():
            return None
        # What is damaged, or of another version, costs the run and nothing else.
        with contextlib.suppress(DamagedFileError, KeyError, ValueError, TypeError):
            saved = read_structure(self._path)
            if saved["key"] != self._key:
                return None
            found = Point(
                int(saved["done"]),
                float(saved["elapsed"]),
                _like(saved["parameters"], begin.parameters),
                complete(optimizer).from_saved(saved["state"], begin.state, begin.parameters),
                _like(saved["model_state"], begin.model_state),
            )
            return found, json.loads(str(saved["curve"]))
        return None

    def clear(self) -> None:
        """Removes what is kept, once the run is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _like(leaves: Any, like: Any) -> Any:
    wanted = tf.nest.flatten(like)
    found = [
        tf.ensure_shape(tf.constant(leaf, tf.as_dtype(other.dtype)), other.shape)
        for leaf, other in zip(leaves, wanted, strict=True)
    ]
    return tf.nest.pack_sequence_as(like, found)
