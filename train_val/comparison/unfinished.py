"""Saves the unfinished run of a comparison in a file, so that a kill costs only minutes of it."""

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
    """The position of a run.

    Attributes:
      done: The number of steps done.
      elapsed: The seconds of training so far.
      parameters: A structure of tensors.
      state: The optimizer's state.
      model_state: The rest of the network's state.
    """

    done: int
    elapsed: float
    parameters: Any
    state: Any
    model_state: Any


class Unfinished:
    """Saves one run, under the key that its result will have."""

    def __init__(
        self, folder: str | Path | None, key: Mapping[str, Any], minutes: float = 5.0
    ) -> None:
        """Opens the file of a folder.

        Args:
          folder: The folder of the comparison; None saves nothing.
          key: Everything that the run depends on. A run saved under another key stays until this
            run is saved.
          minutes: Minutes between two saves, as for `mlhf.runs.saving.Saving`.
        """
        self._path = None if folder is None else Path(folder) / FILE
        self._key, self._minutes = json.dumps(key, sort_keys=True), minutes

    def saving(self, steps: int, done: int) -> Saving:
        """Returns the schedule of saving: every few minutes and on a signal."""
        return Saving(steps + 1, self._minutes, done=done, signals=self._path is not None)

    def keep(self, point: Point, curve: Mapping[str, Any], optimizer: Any) -> None:
        """Writes the position of the run, whole or not at all."""
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
        """Returns the saved position of the run and its curve; None if it was not saved.

        Args:
          begin: The run's beginning, which has the structures, shapes and dtypes.
          optimizer: The optimizer that the state belongs to.
        """
        if self._path is None or not self._path.is_file():
            return None
        # A file that is damaged or from another version only costs the saved run.
        with contextlib.suppress(DamagedFileError, KeyError, ValueError, TypeError):
            saved = read_structure(self._path)
            if saved["key"] != self._key:
                return None
            point = Point(
                int(saved["done"]),
                float(saved["elapsed"]),
                _like(saved["parameters"], begin.parameters),
                complete(optimizer).from_saved(saved["state"], begin.state, begin.parameters),
                _like(saved["model_state"], begin.model_state),
            )
            return point, json.loads(str(saved["curve"]))
        return None

    def clear(self) -> None:
        """Removes the file, once the run is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _like(leaves: Any, like: Any) -> Any:
    wanted = tf.nest.flatten(like)
    tensors = [
        tf.ensure_shape(tf.constant(leaf, tf.as_dtype(other.dtype)), other.shape)
        for leaf, other in zip(leaves, wanted, strict=True)
    ]
    return tf.nest.pack_sequence_as(like, tensors)
