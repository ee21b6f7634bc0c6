"""What is learned of a step and what is not, and what goes from step to step."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer import coordinate_lstm

# The roles that a learned rule can have: the start of the conjugate gradients, their
# preconditioner, and the damping.
ROLES = ("x", "y", "d")
# What they may see of a gradient, a residual and a solution.
INPUTS = ("grx", "gr", "gx", "rx", "g", "r", "x")


class Rule(NamedTuple):
    """What is learned and what is not; static."""

    x_use: str = "x"  # the start: "x" the last solution, "d" the gradient, "rnn" learned
    y_use: str = "rnn"  # the preconditioner: "rnn" learned, "none" ones
    d_use: str = "rnn"  # the damping: "rnn" learned and added to the constant, "none" constant
    cg_iterations: int = 2
    damping_type: str = "regular"  # or "LM_heuristics"
    decay: float = 0.9  # the factor of the LM heuristic
    product_dtype: str | None = None  # "bfloat16" for cheaper products with G
    curvature_share: float = 1.0  # of the batch that G is taken on
    input_scale: str = "none"  # "rms": LSTMs see g, r and x by their root mean squares
    damping_scale: float = 1.0  # of the learned damping
    inputs: str = "grx"  # which of g, r and x LSTMs see; zeros in the place of the others

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that have a learned rule."""
        uses = {"x": self.x_use, "y": self.y_use, "d": self.d_use}
        return tuple(role for role in ROLES if uses[role] == "rnn")

    @property
    def signature(self) -> str:
        """The rule as checkpoints name it.

        The first seven fields are as old as checkpoints; of the others it has those that are not
        the default, so that a checkpoint that is older than a field stays valid.
        """
        newer = {
            name: value
            for name, value in list(self._asdict().items())[7:]
            if value != self._field_defaults[name]
        }
        return f"{tuple(self)[:7]} {newer}" if newer else str(tuple(self)[:7])


class MetaState(NamedTuple):
    """What MLHF carries from step to step; flat vectors of the layout's size."""

    solution: tf.Tensor  # x₋
    residual: tf.Tensor  # r₋
    damping: tf.Tensor  # the scalar part of δ
    lstm: dict[str, tuple[tf.Tensor, ...]]  # by role
    step: Any = ()  # int32, steps taken; nothing where no number is scheduled


def zero_state(rule: Rule, layout: Layout, damping: Any) -> MetaState:
    """Returns the state at the start of training."""
    zeros = tf.zeros([layout.size], layout.dtype)
    return MetaState(
        zeros,
        zeros,
        tf.cast(damping, layout.dtype),
        {
            role: coordinate_lstm.zero_state(layout.blocks, layout.block, layout.dtype)
            for role in rule.roles
        },
    )
