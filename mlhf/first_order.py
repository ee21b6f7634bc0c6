"""Any Keras optimizer behind the interface of the curvature optimizers, for comparisons."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import structures
from mlhf import keras_models, keras_optimizers
from mlhf.objective import Objective
from mlhf.step import CompiledSteps, Step
from mlhf.validation import check_keras_optimizer, check_parameters


class FirstOrder(CompiledSteps):
    """A Keras optimizer with its state in and out: `init`, `step`.

    The optimizer's variables live inside; a step writes parameters and state into them, applies
    the gradient and reads both back.
    """

    class State(NamedTuple):
        """The optimizer's variables."""

        variables: tuple[tf.Tensor, ...]

    def __init__(self, optimizer: Any, jit_compile: bool = False):
        """Wraps an optimizer.

        Args:
          optimizer: A `keras.optimizers.Optimizer`, or a function that returns a new one.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          TypeError: If it is neither.
          ValueError: If a number that it was made with makes no sense, such as a negative rate, or
            it keeps averages of the weights (`use_ema`) that only the end of `fit` would write
            into them.
        """
        import keras

        super().__init__(jit_compile)

        if isinstance(optimizer, type) or not isinstance(optimizer, keras.optimizers.Optimizer):
            if not callable(optimizer):
                raise TypeError(f"Expected a Keras optimizer, got {optimizer!r}.")
            optimizer = optimizer()
        check_keras_optimizer("optimizer", optimizer)
        self._optimizer = keras_optimizers.prepared(optimizer)
        self._variables: list[Any] = []

    @property
    def learning_rate(self) -> float:
        """The optimizer's learning rate; one that is set holds from the next `init` on."""
        return float(self._optimizer.learning_rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._optimizer.learning_rate = rate

    def init(self, parameters: Any) -> State:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.

        Returns:
          The state.

        Raises:
          ValueError: If the parameters have no floating dtype in common, or the optimizer is in use
            elsewhere or was made for parameters of other shapes.
        """
        model = parameters if keras_models.is_model(parameters) else None
        parameters = keras_models.parameters_of(parameters)
        check_parameters(parameters)
        leaves = tf.nest.flatten(parameters)
        if not self._variables:
            if self._optimizer.built:
                raise ValueError(
                    f"Expected an optimizer that nothing uses yet, got a {self._optimizer.name!r} "
                    "that was built for other variables; give a function that returns a new one, "
                    "as in FirstOrder(lambda: keras.optimizers.Adam(1e-3))."
                )
            # Some optimizers ask variables for their paths, which only Keras' own have.
            paths = structures.leaf_names(parameters)
            variables = keras_optimizers.variables_like(leaves, paths)
            keras_optimizers.leave_out_of_decay(self._optimizer, variables, paths, model)
            self._optimizer.build(variables)
            self._variables = variables
            self._initial = tuple(tf.identity(v.value) for v in self._optimizer.variables)
        shapes, own = [tuple(leaf.shape) for leaf in leaves], [v.shape for v in self._variables]
        if shapes != own:
            raise ValueError(f"Expected parameters of the shapes {own}, got {shapes}.")
        rate = tf.convert_to_tensor(self._optimizer.learning_rate)
        return self.State(
            tuple(
                rate if variable is self._optimizer._learning_rate else value
                for variable, value in zip(self._optimizer.variables, self._initial, strict=True)
            )
        )

    def step(self, objective: Objective, parameters: Any, state: State) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: Where it stands.
          state: From `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`.
        """
        return self._take(objective, parameters, state)

    def _step(self, static, tensors, parameters, state):
        linearized = Objective.of(static, tensors).linearize(parameters)
        gradient = tf.nest.flatten(linearized.gradient())
        for variable, value in zip(self._variables, tf.nest.flatten(parameters), strict=True):
            variable.assign(value)
        for variable, value in zip(self._optimizer.variables, state.variables, strict=True):
            variable.assign(value)
        self._optimizer.apply(keras_optimizers.scaled(self._optimizer, gradient), self._variables)
        moved = tf.nest.pack_sequence_as(
            parameters, [tf.identity(variable.value) for variable in self._variables]
        )
        after = self.State(tuple(tf.identity(v.value) for v in self._optimizer.variables))
        metrics = {"loss": linearized.value, "gradient_norm": tf.linalg.global_norm(gradient)}
        return moved, after, linearized.model_state, metrics
