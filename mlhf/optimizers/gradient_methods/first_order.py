"""Any Keras optimizer behind the interface of the curvature optimizers, for comparisons."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import structures
from mlhf import keras_internals
from mlhf.checks.arguments import check_keras_optimizer, check_number, check_parameters
from mlhf.checks.networks import takes
from mlhf.checks.structures import kind
from mlhf.models import keras_models
from mlhf.objective import Objective
from mlhf.optimizers.gradient_methods import keras_optimizers
from mlhf.optimizers.settings import as_python, is_schedule, is_variable, tell_followers
from mlhf.optimizers.step import CompiledSteps, Step
from mlhf.optimizers.step_arguments import as_tensors


class FirstOrder(CompiledSteps):
    """A Keras optimizer as functions of its state: `init`, `step`.

    The Keras optimizer's variables are inside; a step writes parameters and state into them,
    applies the gradient and reads both back. Only the learning rate is the optimizer's own and not
    read from the state, which records it. The Keras optimizer's other numbers (`momentum`,
    `beta_1`) are constants in a `tf.function` of yours in which a step was traced.
    """

    class State(NamedTuple):
        """The optimizer's variables."""

        variables: tuple[tf.Tensor, ...]

    def __init__(self, optimizer: Any, jit_compile: bool = False) -> None:
        """Wraps an optimizer.

        Args:
          optimizer: A `keras.optimizers.Optimizer`, or a function that returns a new one.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          TypeError: If it is neither.
          ValueError: If it was made with a number that makes no sense, such as a negative rate, or
            keeps averages of the weights (`use_ema`) that only the end of `fit` would write into
            them.
        """
        import keras

        super().__init__(jit_compile)

        if isinstance(optimizer, type) or not isinstance(optimizer, keras.optimizers.Optimizer):
            if not callable(optimizer):
                raise TypeError(f"Expected a Keras optimizer, got {kind(optimizer)}.")
            made = optimizer() if takes(optimizer) else None
            if not isinstance(made, keras.optimizers.Optimizer):
                raise TypeError(
                    f"Expected a Keras optimizer or a function that returns a new one, got "
                    f"{kind(optimizer)}."
                )
            optimizer = made
        check_keras_optimizer("optimizer", optimizer)
        self._optimizer = keras_optimizers.prepared(optimizer)
        self._variables: list[Any] = []
        self._rate_given: Any = None

    @property
    def keras_optimizer(self) -> Any:
        """The Keras optimizer inside."""
        return self._optimizer

    @property
    def learning_rate(self) -> Any:
        """The optimizer's learning rate; a new value holds from the next step on.

        It may be set to a number, a tensor, a variable (which is then read at every step) or a
        function of the steps taken, such as an `mlhf.Schedule`. It can't be set if the optimizer
        was made with a schedule.
        """
        if self._rate_given is not None:
            return self._rate_given
        rate = self._optimizer.learning_rate
        return float(rate) if tf.executing_eagerly() else tf.convert_to_tensor(rate)

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        rate_inside = keras_internals.learning_rate_of(self._optimizer)
        if not is_variable(rate_inside):
            raise TypeError(
                f"Expected a Keras optimizer with a number as its learning rate, got one with "
                f"{rate_inside!r}: that schedule gives it, and it can't be set "
                f"to {rate!r}. Make an optimizer with a number."
            )
        is_read = is_variable(rate) or is_schedule(rate)
        if rate is not self._rate_given and (is_read or self._rate_given is not None):
            self._check_untraced(
                "learning_rate", "a number, a variable or a schedule in the place of each other"
            )
        self._rate_given = rate if is_read else None
        if self._rate_given is None:
            if not tf.is_tensor(rate) or hasattr(rate, "numpy"):
                rate = check_number("learning_rate", as_python(rate), at_least=0)
            self._optimizer.learning_rate = rate
            tell_followers(self, "learning_rate", rate)

    def init(self, parameters: Any) -> State:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.

        Returns:
          The state.

        Raises:
          ValueError: If the parameters do not share one floating dtype, or the optimizer is in use
            elsewhere or was made for parameters of other shapes.
        """
        model = parameters if keras_models.is_model(parameters) else None
        parameters = as_tensors(keras_models.parameters_of(parameters))
        check_parameters(parameters)
        leaves = tf.nest.flatten(parameters)
        if not self._variables:
            if self._optimizer.built:
                raise ValueError(
                    f"Expected an optimizer that nothing uses yet, got a {self._optimizer.name!r} "
                    "that was built for other variables; give a function that returns a new one, "
                    "as in FirstOrder(lambda: keras.optimizers.Adam(1e-3))."
                )
            # Some optimizers read variables' paths, which only Keras' variables have.
            paths = structures.leaf_names(parameters)
            # Outside of any function that is being traced; a step writes values into them.
            with tf.init_scope():
                values = [
                    leaf if hasattr(leaf, "numpy") else tf.zeros(leaf.shape, leaf.dtype)
                    for leaf in leaves
                ]
                variables = keras_optimizers.variables_like(values, paths)
                keras_optimizers.leave_out_of_decay(self._optimizer, variables, paths, model)
                self._optimizer.build(variables)
                self._variables = variables
                self._initial = tuple(tf.identity(v.value) for v in self._optimizer.variables)
        self._check_own(parameters)
        given = self._rate_given
        rate = self._scheduled(0) if is_schedule(given) else self.learning_rate
        return self.State(
            tuple(
                tf.cast(tf.convert_to_tensor(rate), value.dtype)
                if self._is_rate(variable)
                else value
                for variable, value in zip(self._optimizer.variables, self._initial, strict=True)
            )
        )

    def step(self, objective: Objective, parameters: Any, state: State) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`.

        Raises:
          ValueError: If `init` was not called, or an argument does not fit.
        """
        if not self._variables:
            raise ValueError("Expected an optimizer that was given init(parameters) before step.")
        return self._take(objective, parameters, state, key=self._constants())

    def _state_like(self, parameters: Any) -> State:
        self._check_own(parameters)
        variables = self._optimizer.variables
        return self.State(tuple(tf.zeros(v.shape, v.dtype) for v in variables))

    def _check_own(self, parameters: Any) -> None:
        """Raises ValueError unless parameters are like those of the first `init`."""
        shapes = [(tuple(leaf.shape), leaf.dtype.name) for leaf in tf.nest.flatten(parameters)]
        expected = [(v.shape, tf.as_dtype(v.dtype).name) for v in self._variables]
        if shapes != expected:
            raise ValueError(
                f"Expected parameters of the shapes {expected}, which init was given, got "
                f"{shapes}: make another optimizer for another network."
            )

    def _numbers(self, state: State) -> dict[str, tf.Tensor]:
        rate = self._rate_given
        if is_schedule(rate):
            own = zip(self._optimizer.variables, state.variables, strict=True)
            counts = [value for variable, value in own if variable is self._optimizer.iterations]
            return {"learning_rate": self._scheduled(counts[0])}
        return {} if rate is None else {"learning_rate": tf.convert_to_tensor(rate)}

    def _scheduled(self, steps: Any) -> tf.Tensor:
        """Returns the rate of the schedule that was set, after so many steps."""
        return tf.convert_to_tensor(self._rate_given(tf.cast(steps, tf.float64)))

    def _settable(self) -> list[str]:
        return ["learning_rate"]

    def _constants(self) -> tuple[Any, ...]:
        """Returns the Keras optimizer's numbers that are constants in a compiled step."""
        kinds = (bool, int, float, str)
        attributes = vars(self._optimizer).items()
        return tuple((name, value) for name, value in attributes if type(value) in kinds)

    def _is_rate(self, variable: Any) -> bool:
        return variable is keras_internals.learning_rate_of(self._optimizer)

    def _step(
        self, objective: Objective, parameters: Any, state: State, numbers: dict[str, tf.Tensor]
    ) -> tuple[Any, ...]:
        linearized = objective.linearize(parameters)
        gradient = tf.nest.flatten(linearized.gradient())
        for variable, value in zip(self._variables, tf.nest.flatten(parameters), strict=True):
            variable.assign(value)
        for variable, value in zip(self._optimizer.variables, state.variables, strict=True):
            if not self._is_rate(variable):
                variable.assign(value)
            elif "learning_rate" in numbers:
                variable.assign(tf.cast(numbers["learning_rate"], variable.dtype))
        with keras_optimizers.without_replicas(self._optimizer):
            scaled = keras_optimizers.scaled(self._optimizer, gradient)
            # The method that `fit` calls, which a user's optimizer may override.
            self._optimizer.apply_gradients(zip(scaled, self._variables, strict=True))
        moved = tf.nest.pack_sequence_as(
            parameters, [tf.identity(variable.value) for variable in self._variables]
        )
        after = self.State(tuple(tf.identity(v.value) for v in self._optimizer.variables))
        metrics = {"loss": linearized.value, "gradient_norm": tf.linalg.global_norm(gradient)}
        return moved, after, linearized.model_state, metrics
