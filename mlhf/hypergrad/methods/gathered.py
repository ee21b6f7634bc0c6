"""The contributions of steps to a hypergradient, collected on the way back outside of graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mlhf.hypergrad.dynamics.base import State
from mlhf.hypergrad.methods import unroll
from mlhf.hypergrad.training import Training


class Gathered:
    """The contributions to the gradient of one outer loss, added from the last step on back."""

    def __init__(self, training: Training, leaves: Sequence[tf.Tensor], keep: Sequence[bool]):
        """Begins with no contributions.

        Args:
          training: The training with the steps.
          leaves: The leaves of the hyperparameters.
          keep: Whether contributions are kept by step, for each leaf; those to schedules always
            are.
        """
        self._owners, self._scheduled = training.resolver.leaf_owner, training.resolver.scheduled
        self._kept = [k or s for k, s in zip(keep, self._scheduled, strict=True)]
        self.dtype = training.flat.dtype
        self._leaves = leaves
        self._sums = [
            np.zeros([] if scheduled else leaf.shape, leaf.dtype.as_numpy_dtype)
            for leaf, scheduled in zip(leaves, self._scheduled, strict=True)
        ]
        self._rows: list[list[np.ndarray]] = [[] for _ in leaves]
        self._norms: list[float] = []
        self._moving: list[float] = []
        self._shares: list[list[float]] = []

    def add(
        self,
        in_rows: Sequence[tf.Tensor],
        own: dict[str, list[np.ndarray]],
        norm: float,
        moving: float,
    ) -> None:
        """Adds the contributions of a step.

        Args:
          in_rows: The contributions through the gradient of the training loss, for each leaf.
          own: The contributions through the dynamics, by the name of the hyperparameter.
          norm: ‖∂E/∂w‖ before the step.
          moving: The same norm over the weights that the step moves.
        """
        self._norms.append(norm)
        self._moving.append(moving)
        shares = []
        parts_of = {name: iter(parts) for name, parts in own.items()}
        for i, owner in enumerate(self._owners):
            part = next(parts_of[owner]) if owner in parts_of else in_rows[i].numpy()
            shares.append(float(np.linalg.norm(np.asarray(part, np.float64))))
            if self._kept[i]:
                self._rows[i].append(part)
            if not self._scheduled[i]:
                self._sums[i] += part
        self._shares.append(shares)

    def sums(self) -> list[tf.Tensor]:
        """Returns the sums over the steps, which are meaningless for schedules."""
        return [
            tf.constant(total, leaf.dtype)
            for total, leaf in zip(self._sums, self._leaves, strict=True)
        ]

    def by_step(self) -> list[tf.Tensor]:
        """Returns the kept contributions in the order of time, [steps, ...], else [steps, 0]."""
        return [
            tf.constant(np.stack(rows[::-1]), leaf.dtype)
            if kept
            else tf.zeros([len(self._norms), 0], leaf.dtype)
            for rows, leaf, kept in zip(self._rows, self._leaves, self._kept, strict=True)
        ]

    def norms(self) -> tf.Tensor:
        """Returns ‖∂E/∂w‖ before each step, in the order of time."""
        return tf.constant(self._norms[::-1], self.dtype)

    def moving(self) -> tf.Tensor:
        """Returns the same norms over the weights that each step moves."""
        return tf.constant(self._moving[::-1], self.dtype)

    def shares(self) -> tf.Tensor:
        """Returns the norm of each step's contribution to each leaf, [steps, leaves]."""
        return tf.constant(self._shares[::-1], self.dtype)


def backward_pass(gathered: Sequence[Gathered], adjoints: list[State]) -> unroll.BackwardPass:
    """Returns the contributions to each outer loss's gradient as a pass back through steps."""
    return unroll.BackwardPass(
        adjoints=adjoints,
        sums=[loss.sums() for loss in gathered],
        by_step=[loss.by_step() for loss in gathered],
        norms=[loss.norms() for loss in gathered],
        moving=[loss.moving() for loss in gathered],
        shares=[loss.shares() for loss in gathered],
        drift=tf.zeros([], gathered[0].dtype),
    )
