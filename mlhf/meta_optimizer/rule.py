"""The settings that say what is learned of a step, and the state between steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_number
from mlhf.layout import Layout
from mlhf.meta_optimizer import coordinate_lstm

# The roles that a learned rule can have: the start of the conjugate gradients, their
# preconditioner, and the damping.
ROLES = ("x", "y", "d")
# The inputs that they may have: a gradient, a residual and a solution.
INPUTS = ("grx", "gr", "gx", "rx", "g", "r", "x")


# The number of the rule's first fields that are as old as checkpoints.
_OLDEST = 7


def _choice(*choices: Any) -> Callable[[str, Any], Any]:
    return lambda name, value: check_choice(name, value, choices)


def _number(**bounds: float) -> Callable[[str, Any], Any]:
    return lambda name, value: check_number(name, value, **bounds)


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _setting(default: Any, check: Callable[[str, Any], Any], **where: bool) -> Any:
    """Returns the field of a setting.

    Args:
      default: Its default, which is the constructor's too.
      check: A function of its name and its value, which returns the value or raises ValueError.
      **where: `saved=False` if files of weights do not have it, `learned_under=False` if
        meta-training does not depend on it.
    """
    return dataclasses.field(default=default, metadata={"check": check, **where})


@dataclasses.dataclass(frozen=True)
class Rule:
    """The settings of a step that do not change between steps.

    A new setting is a field here, at the end, and an argument of `MetaHessianFree` with the same
    name and default; the settings of files, checkpoints' signatures and the specifications of
    comparisons follow from it.

    Attributes:
      x_use: The start: `"x"` the last solution, `"d"` the gradient, `"rnn"` learned.
      y_use: The preconditioner: `"rnn"` learned, `"none"` ones.
      d_use: The damping: `"rnn"` learned and added to the constant, `"none"` constant.
      cg_iterations: The largest number of conjugate-gradient iterations.
      damping_type: Whether the damping's constant is adapted.
      decay: The factor of the heuristic that adapts it.
      product_dtype: `"bfloat16"` for cheaper products with G.
      curvature_share: The share of the batch that G is taken on.
      input_scale: The scale of the LSTMs' inputs; `"rms"` divides by root mean squares.
      damping_scale: A factor on the learned damping.
      inputs: The vectors of g, r and x that LSTMs see; the others are zero.
      longest_step: A step's largest length, in units of ‖w‖.

    Raises:
      ValueError: If a value makes no sense; the message says what was expected.
    """

    x_use: str = _setting("x", _choice("x", "d", "rnn"))
    y_use: str = _setting("rnn", _choice("rnn", "none"))
    d_use: str = _setting("rnn", _choice("rnn", "none"))
    cg_iterations: int = _setting(2, check_count)
    damping_type: str = _setting("regular", _choice("regular", "LM_heuristics"))
    decay: float = _setting(0.9, _number(above=0, below=1))
    product_dtype: str | None = _setting(None, _choice(None, "bfloat16"), saved=False)
    curvature_share: float = _setting(1.0, _number(above=0, at_most=1))
    input_scale: str = _setting("none", _choice("none", "rms"))
    damping_scale: float = _setting(1.0, _number(above=0))
    inputs: str = _setting("grx", _choice(*INPUTS))
    longest_step: float | None = _setting(None, _optional(_number(above=0)), learned_under=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = field.metadata["check"](field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    @classmethod
    def names(cls) -> list[str]:
        """Returns the names of the settings."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def younger_defaults(cls) -> dict[str, Any]:
        """Returns the settings that older files may lack, with their defaults."""
        return {field.name: field.default for field in dataclasses.fields(cls)[_OLDEST:]}

    @property
    def saved(self) -> dict[str, Any]:
        """The settings that files of weights have."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata.get("saved", True)
        }

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are learned."""
        uses = {"x": self.x_use, "y": self.y_use, "d": self.d_use}
        return tuple(role for role in ROLES if uses[role] == "rnn")

    @property
    def signature(self) -> str:
        """The rule as checkpoints name it.

        The first fields are as old as checkpoints; of the others it contains those with another
        value than the default, so that a checkpoint that is older than a field stays valid.
        """
        oldest = tuple(getattr(self, name) for name in self.names()[:_OLDEST])
        newer = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)[_OLDEST:]
            if field.metadata.get("learned_under", True)
            and getattr(self, field.name) != field.default
        }
        return f"{oldest} {newer}" if newer else str(oldest)


class MetaState(NamedTuple):
    """MLHF's state between steps; flat vectors have the layout's size."""

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
