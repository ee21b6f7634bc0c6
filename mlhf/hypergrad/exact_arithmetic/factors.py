"""The dynamics' own hyperparameters as float64 numbers, by step and block of weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.hypergrad.training import Training

Factor = Any  # a float, or float64 of the block's size
_ONE, _BY_GROUP, _BY_LEAF = "one", "by group", "by leaf"


class Factors:
    """The factors of a step, for weights cut into blocks of one factor each.

    One block holds all weights if every hyperparameter of the dynamics is one number per step;
    otherwise every leaf is a block.

    Attributes:
      blocks: Slices of the flat weights.
    """

    def __init__(self, training: Training, hyper: dict[str, Any]):
        """Reads the values.

        Args:
          training: The training, with its dynamics.
          hyper: The hyperparameters, eager tensors.
        """
        flat, resolver = training.flat, training.resolver
        self._group_of_leaf, self._shapes = flat.group_of_leaf, flat.shapes
        self._kinds: dict[str, str] = {}
        self._scheduled: dict[str, bool] = {}
        self._leaves: dict[str, list[np.ndarray]] = {}
        for name, constant in training.dynamics.constants.items():
            if name not in hyper:
                self._kinds[name], self._scheduled[name] = _ONE, False
                # Rounded to the weights' dtype, as in the other methods.
                rounded = np.asarray(constant, flat.dtype.as_numpy_dtype)
                self._leaves[name] = [rounded.astype(np.float64)]
                continue
            value = hyper[name]
            scheduled = resolver.scheduled[resolver.leaf_owner.index(name)]
            leaves = [leaf.numpy().astype(np.float64) for leaf in tf.nest.flatten(value)]
            if tf.nest.is_nested(value):
                kind = _BY_LEAF
            else:
                per_step = leaves[0].size // (training.steps if scheduled else 1)
                kind = _ONE if per_step == 1 else _BY_GROUP
            self._kinds[name], self._scheduled[name] = kind, scheduled
            self._leaves[name] = leaves
        if all(kind == _ONE for kind in self._kinds.values()):
            sizes = [flat.size]
        else:
            sizes = flat.sizes
        ends = np.cumsum(sizes)
        self.blocks = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def at(self, name: str, step: int) -> list[Factor]:
        """Returns a step's factor of each block; zeros if the dynamics lack the hyperparameter."""
        if name not in self._kinds:
            return [0.0] * len(self.blocks)
        rows = self._leaves[name]
        if self._scheduled[name]:
            rows = [leaf[step] for leaf in rows]
        kind = self._kinds[name]
        if kind == _ONE:
            return [float(rows[0].reshape(()))] * len(self.blocks)
        if kind == _BY_GROUP:
            by_group = rows[0].reshape(-1)
            return [float(by_group[group]) for group in self._group_of_leaf]
        return [float(row) if row.ndim == 0 else row.reshape(-1) for row in rows]

    def all_of(self, name: str) -> np.ndarray:
        """Returns all values of a hyperparameter, as a vector."""
        return np.concatenate([leaf.reshape(-1) for leaf in self._leaves[name]])

    def times(self, factors: list[Factor], vector: np.ndarray) -> np.ndarray:
        """Returns factor · vector, block by block."""
        if len(self.blocks) == 1:
            return factors[0] * vector
        return np.concatenate(
            [factor * vector[block] for factor, block in zip(factors, self.blocks, strict=True)]
        )

    def inner(self, name: str, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        """Returns Σ a · b over the weights that each entry of a hyperparameter's row applies to.

        Args:
          name: The name of the hyperparameter.
          a: A vector [P].
          b: A vector [P].

        Returns:
          An array for each leaf, of the shape of the leaf's row in a step.
        """
        kind = self._kinds[name]
        rows = [leaf[0] if self._scheduled[name] else leaf for leaf in self._leaves[name]]
        if kind == _ONE:
            return [_dot(a, b).reshape(rows[0].shape)]
        if kind == _BY_GROUP:
            total = np.zeros(rows[0].size)
            for group, block in zip(self._group_of_leaf, self.blocks, strict=True):
                total[group] += _dot(a[block], b[block])
            return [total.reshape(rows[0].shape)]
        return [
            _dot(a[block], b[block]).reshape(())
            if row.ndim == 0
            else (a[block] * b[block]).reshape(row.shape)
            for row, block in zip(rows, self.blocks, strict=True)
        ]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # np.dot would start BLAS threads, which wait milliseconds for those of TensorFlow.
    return np.asarray((a * b).sum())
