"""Checks that a function and its data stay the same from pass to pass.

A curvature matrix belongs to one function and to fixed data. If dropout draws anew in every
pass, or a data set is shuffled while draws depend on an example's number, products belong to
different matrices, and eigenvalues and traces to none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

Structure = Any
PARTS = ("inputs", "targets", "weights", "mask")
_OPT_OUT = "or pass check_deterministic=False"
# Between two runs of a computation only the order of summation may change.
_SHARE = {"float32": 1e-4, "float64": 1e-9}
# Odd multipliers for the words of an example.
_MULTIPLIERS = np.random.default_rng(0).integers(0, 2**63, 4096, np.uint64) * np.uint64(2) + 1


def check_function(first: Structure, second: Structure) -> None:
    """Checks that a function returned the same twice.

    Args:
      first: The tensors that it returned.
      second: The tensors that it returned at the same point in a second run.

    Raises:
      ValueError: If they differ by more than rounding.
    """
    for before, after in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        apart = _apart(before.numpy(), after.numpy())
        if apart:
            raise ValueError(
                "Expected a function that gives the same whenever it runs at the same parameters, "
                f"got results that differ by {apart:.2g} between two runs: it draws random numbers "
                "(dropout in training mode?) or reads a state that changes. Call the network with "
                "training=False, or draw by tf.random.stateless_* from a seed that is given; "
                f"{_OPT_OUT}, for the matrix of a single draw."
            )


def check_order(first: float, second: float) -> None:
    """Raises ValueError if a loss over the same examples depends on how they were batched."""
    if not np.isclose(first, second, rtol=1e-5, equal_nan=True):
        raise ValueError(
            f"Expected the same loss in every pass over the data, got {first:.6g} and then "
            f"{second:.6g}: batches are made anew in every pass, and outputs depend on the batch "
            "(batch normalisation in training mode?). Take shuffle() away, or call the network "
            f"with training=False; {_OPT_OUT}."
        )


def _apart(before: np.ndarray, after: np.ndarray) -> float:
    """Returns the largest difference of two arrays; 0 if it is rounding."""
    share = _SHARE.get(before.dtype.name, 1e-2)
    before, after = (np.nan_to_num(a.astype(np.float64)) for a in (before, after))
    apart = float(np.max(np.abs(before - after), initial=0))
    return apart if apart > share * np.max(np.abs(before), initial=0) else 0.0


class Fingerprint:
    """Checksums of the examples in a pass over a data set, unlikely to agree by chance.

    Attributes:
      totals: A number for each part, independent of the order of the examples.
      pairs: A number for the whole examples, independent of their order.
      ordered: A number for the examples in their order.
      batches: The number of batches.
    """

    def __init__(self) -> None:
        self.totals = [0] * len(PARTS)
        self.pairs = self.ordered = self.batches = self._examples = 0

    def add(self, inputs: Any, *others: Any) -> None:
        """Adds a batch.

        Args:
          inputs: A structure of tensors whose first axis counts examples.
          *others: Targets, weights and mask, tensors or None.
        """
        count = int(others[0].shape[0])
        whole = np.zeros(count, np.uint64)
        for number, part in enumerate((inputs, *others)):
            hashed = np.zeros(count, np.uint64)
            for place, leaf in enumerate(tf.nest.flatten(part)):
                if leaf is not None:
                    hashed += _hash(leaf, count) * _MULTIPLIERS[place]
            self.totals[number] = _sum(hashed, self.totals[number])
            whole = (whole ^ hashed) * _MULTIPLIERS[-1 - number]
        places = np.arange(self._examples, self._examples + count, dtype=np.uint64)
        self.pairs = _sum(whole, self.pairs)
        self.ordered = _sum(whole * (places * np.uint64(2) + np.uint64(1)), self.ordered)
        self._examples += count
        self.batches += 1

    def changed(self, other: Fingerprint, in_order: bool) -> str | None:
        """Returns what differs between two passes, in words.

        Args:
          other: The fingerprint of another pass.
          in_order: Whether the order of the examples matters.

        Returns:
          Words for a message; None if nothing differs.
        """
        if (self.batches, self._examples) != (other.batches, other._examples):
            return (
                f"their number ({self._examples} examples in {self.batches} batches, then "
                f"{other._examples} in {other.batches})"
            )
        pairs = zip(PARTS, self.totals, other.totals, strict=True)
        parts = [part for part, ours, theirs in pairs if ours != theirs]
        if parts:
            return "the " + " and the ".join(parts)
        if self.pairs != other.pairs:
            return "which targets go with which inputs"
        if in_order and self.ordered != other.ordered:
            return "their order, and each example's draws go by its number"
        return None


def check_data(before: Fingerprint, after: Fingerprint, in_order: bool) -> None:
    """Raises ValueError if two passes over a data set saw different examples; it says how."""
    changed = before.changed(after, in_order)
    if changed:
        raise ValueError(
            "Expected the same examples in every pass over the data, got passes that differ in "
            f"{changed}; a curvature matrix belongs to fixed data. Keep a list of batches, take "
            "shuffle() and random augmentation away or give "
            f"shuffle(..., reshuffle_each_iteration=False), or .cache() behind them; {_OPT_OUT}."
        )


def _hash(leaf: tf.Tensor, count: int) -> np.ndarray:
    """Returns a number for each example."""
    array = np.ascontiguousarray(leaf.numpy())
    if array.dtype == object:  # texts
        array = np.array([hash(entry) for entry in array.reshape(-1)], np.int64).reshape(
            array.shape
        )
    # An array whose first axis does not count examples belongs to all of them.
    rows = array.reshape(count, -1) if array.shape[:1] == (count,) else array.reshape(1, -1)
    data = rows.view(np.uint8) if rows.size else np.zeros((len(rows), 0), np.uint8)
    left = -data.shape[1] % 8
    words = (np.pad(data, [(0, 0), (0, left)]) if left else data).view(np.uint64)
    found = np.zeros(len(words), np.uint64)
    for start in range(0, words.shape[1], len(_MULTIPLIERS)):
        piece = words[:, start : start + len(_MULTIPLIERS)]
        piece = (piece ^ (piece >> np.uint64(29))) * _MULTIPLIERS[: piece.shape[1]]
        found = found * _MULTIPLIERS[7] + piece.sum(1, dtype=np.uint64)
    return np.broadcast_to(found, (count,))


def _sum(hashed: np.ndarray, before: int) -> int:
    return (int(hashed.sum(dtype=np.uint64)) + before) % 2**64
