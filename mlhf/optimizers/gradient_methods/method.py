"""What the optimizers of this folder share: a step from the gradient, and Adam's averages."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_parameters
from mlhf.models import keras_models
from mlhf.objective import Objective
from mlhf.optimizers.settings import Number
from mlhf.optimizers.step import CompiledSteps, Step
from mlhf.optimizers.step_arguments import as_tensors

Leaves = list[tf.Tensor]


class Point(NamedTuple):
    """Where a step begins: lists of tensors, in the order of `tf.nest.flatten`."""

    parameters: Leaves
    gradient: Leaves
    structure: Any  # the parameters as the user has them, for their paths

    def pack(self, leaves: Leaves) -> Any:
        """Returns a list of tensors in the structure of the parameters."""
        return tf.nest.pack_sequence_as(self.structure, leaves)


class GradientMethod(CompiledSteps):
    """An optimizer whose step is a rule on the gradient.

    A batch whose loss or gradient is not finite moves nothing and leaves the state as it was, its
    count of steps included.

    Attributes:
      learning_rate: The learning rate; a new value holds from the next step on.
      weight_decay: The decoupled weight decay c: a step also takes the share learning rate · c of
        every parameter away.
    """

    learning_rate = Number(above=0, schedule=True)
    weight_decay = Number(at_least=0)
    # Whether other points than the parameters are averaged, which a projection would leave out.
    _averages = False

    def __init__(self, learning_rate: Any, weight_decay: Any, jit_compile: bool) -> None:
        super().__init__(jit_compile)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    def init(self, parameters: Any) -> Any:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.

        Returns:
          The state, which counts its steps.

        Raises:
          ValueError: If the parameters do not share one floating dtype.
        """
        parameters = as_tensors(keras_models.parameters_of(parameters))
        check_parameters(parameters)
        return self._initial(parameters)

    def step(self, objective: Objective, parameters: Any, state: Any) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`,
          `step_norm`, `learning_rate`.

        Raises:
          ValueError: If an argument does not fit, or a schedule-free optimizer gets a Keras model
            with constraints.
        """
        return self._take(objective, parameters, state)

    def _initial(self, parameters: Any) -> Any:
        """Returns the first state of parameters, a structure of tensors."""
        raise NotImplementedError

    def _rule(self, point: Point, state: Any, numbers: dict[str, tf.Tensor]) -> tuple[Leaves, Any]:
        """Returns the parameters after the step and the new state."""
        raise NotImplementedError

    def _state_like(self, parameters: Any) -> Any:
        return self._initial(parameters)

    def _step(
        self, objective: Objective, parameters: Any, state: Any, numbers: dict[str, tf.Tensor]
    ) -> tuple[Any, ...]:
        if self._averages and getattr(getattr(objective, "network", None), "constraints", None):
            raise ValueError(
                f"Expected a model without constraints (kernel_constraint and the like), which the "
                f"averages of {type(self).__name__} do not keep: make the layers without them."
            )
        linearized = objective.linearize(parameters)
        point = Point(
            tf.nest.flatten(parameters), tf.nest.flatten(linearized.gradient()), parameters
        )
        norm = tf.linalg.global_norm(point.gradient)
        is_finite = tf.math.is_finite(norm) & tf.math.is_finite(linearized.value)
        moved, after = tf.cond(
            is_finite,
            lambda: self._rule(point, state, numbers),
            lambda: (list(point.parameters), state),
        )
        steps = [new - old for new, old in zip(moved, point.parameters, strict=True)]
        metrics = {
            "loss": linearized.value,
            "gradient_norm": norm,
            "step_norm": tf.linalg.global_norm(steps),
            "learning_rate": numbers["learning_rate"],
        }
        return point.pack(moved), after, linearized.model_state, metrics


def average(before: tf.Tensor, new: tf.Tensor, kept: Any) -> tf.Tensor:
    """Returns an exponential average: the share `kept` of the old value, the rest of the new."""
    return kept * before + (1 - kept) * new


def bias(beta: Any, count: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns 1 - β^count, by which an average that began at zero is too small."""
    # In double precision: for a β near 1 the difference loses digits.
    beta = tf.cast(tf.convert_to_tensor(beta, dtype_hint=tf.float64), tf.float64)
    power = tf.pow(beta, tf.cast(count, tf.float64))
    return tf.cast(1 - power, dtype)


def adam_direction(
    first: tf.Tensor, second: tf.Tensor, count: tf.Tensor, beta_1: Any, beta_2: Any, epsilon: Any
) -> tf.Tensor:
    """Returns m̂ / (√v̂ + ε), with m̂ and v̂ the averages without their bias.

    Args:
      first: m, the average of the gradients, the last one included.
      second: v, that of their squares.
      count: The number of gradients in them.
      beta_1: The share of m that a step keeps.
      beta_2: The share of v that a step keeps.
      epsilon: ε.
    """
    m = first / bias(beta_1, count, first.dtype)
    v = second / bias(beta_2, count, second.dtype)
    return tf.math.divide_no_nan(m, tf.sqrt(v) + epsilon)


def zeros_like(leaves: Leaves) -> Leaves:
    """Returns a zero for each tensor."""
    return [tf.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
