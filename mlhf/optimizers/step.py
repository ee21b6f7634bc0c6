"""The result of an optimizer's step, and how steps are compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op.graphs import captured_variables
from custom_op.losses import targets as loss_targets
from mlhf.checks import asides, parameter_names, targets, term_losses
from mlhf.models.keras_contracts import projected
from mlhf.objective import Objective
from mlhf.optimizers import settings, step_arguments
from mlhf.optimizers.protocol import PlainState
from mlhf.optimizers.step_cache import StepCache, signature

_FAILED = ("decomposition was not successful", "not invertible")


class Step(NamedTuple):
    """One step taken."""

    parameters: Any  # in the structure of those that went in
    state: Any  # the optimizer's
    model_state: Any  # the network's; None if it has none
    metrics: dict[str, tf.Tensor]  # scalars


def is_failed_factorization(error: tf.errors.InvalidArgumentError) -> bool:
    """Returns whether TensorFlow could not factor a matrix, as when an optimizer diverges.

    On a CPU, decompositions and inverses of matrices that are singular or not finite are errors,
    where other operations return NaN (Cholesky's does so, too, in later versions of TensorFlow).
    """
    return any(words in str(error) for words in _FAILED)


def public_model_state(model_state: Any) -> Any:
    """Returns a model state as users see it: None instead of an empty one."""
    return model_state if tf.nest.flatten(model_state) else None


class CompiledSteps(PlainState):
    """What optimizers share whose step is one function, compiled once for each objective.

    The last 16 compiled steps are kept. New values of attributes that are numbers
    (`settings.Number`) hold from the next step on, also when the step is part of a user's
    `tf.function`; other attributes can't be set.

    Attributes:
      jit_compile: Whether XLA compiles a step.
      needs_known_sizes: Whether a step is compiled for each size of a batch, as one that counts
        examples has to be.
    """

    needs_known_sizes = False
    jit_compile = settings.Fixed()

    _step: Callable[..., tuple[Any, ...]]
    # A function from parameters to their state, of which only structure, shapes and dtypes matter.
    _state_like: Callable[[Any], Any]

    def __init__(self, jit_compile: bool) -> None:
        self.jit_compile = jit_compile
        self._compiled = StepCache()
        # The signatures of states by the signatures of parameters.
        self._states: dict[Any, tuple[Any, ...]] = {}
        self._traced = False

    def __setattr__(self, name: str, value: Any) -> None:
        is_mlhf = type(self).__module__.partition(".")[0] == __name__.partition(".")[0]
        if is_mlhf and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(
                f"Expected one of the attributes of a {type(self).__name__} that can be set, "
                f"{self._settable()}, got {name!r}, which no step reads."
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        attributes = settings.pack(self)
        attributes.update(_compiled=None, _states={}, _traced=False)
        return attributes

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        settings.unpack(self, {**attributes, "_compiled": StepCache()})

    def without_xla(self) -> CompiledSteps:
        """Returns a copy that compiles its steps anew, without XLA, to look inside."""
        fresh = copy.copy(self)
        fresh.__dict__["_fixed"]["jit_compile"] = False
        return fresh

    def _numbers(self, state: Any) -> dict[str, tf.Tensor]:
        """Returns the numbers that a step from a state uses, by name."""
        return settings.read_all(self, getattr(state, "step", None))

    def _number(self, name: str, dtype: tf.DType) -> tf.Tensor:
        """Returns one of the numbers as a tensor."""
        return tf.cast(settings.numbers_of(type(self))[name].read(self), dtype)

    def _with_count(self, state: Any) -> Any:
        """Returns a state with a count of steps if a number is scheduled, otherwise without one."""
        if not settings.optional_count(state):
            return state
        if not settings.has_schedule(self):
            return state._replace(step=())
        return state._replace(step=tf.constant(0)) if isinstance(state.step, tuple) else state

    def _settable(self) -> list[str]:
        return sorted(settings.numbers_of(type(self)))

    def _check_untraced(self, name: str, what: str) -> None:
        """Raises ValueError for a change that steps inside users' functions can't follow."""
        if self._traced:
            raise ValueError(
                f"Expected {name} to stay of its kind, since a step of this optimizer was traced "
                f"inside a tf.function of yours, which would not see {what}. Make another "
                "optimizer, and trace the function again with it."
            )

    def _take(
        self, objective: Objective, parameters: Any, state: Any, *more: Any, key: Any = None
    ) -> Step:
        """Returns `self._step(objective, parameters, state, numbers, *more)`, compiled.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The optimizer's state.
          *more: Other arguments, structures of tensors.
          key: What the compiled function depends on besides shapes.

        Raises:
          ValueError: If a label is not one of the network's classes, a target is out of range, or
            the network itself reads a variable whose value is among the parameters.
        """
        step_arguments.check_objective(objective)
        parameters = step_arguments.as_parameters(parameters)
        state = self._with_count(step_arguments.as_tensors(state))
        of_parameters, of_state = signature(parameters), signature(state)
        if self._states.get((of_parameters, key)) != of_state:
            state = self._check_state(parameters, state, (of_parameters, key))
            of_state = signature(state)
        step_arguments.check_layout(state, parameters)
        numbers = self._numbers(state)
        self._traced = self._traced or not tf.executing_eagerly()
        other = (of_parameters, of_state, tuple(sorted(numbers)), signature(more))
        batch = signature(objective.tensors)
        compiled = self._compiled.get(objective.static, batch, other, key, self._compile)
        taken = compiled(objective, parameters, state, numbers, *more)
        parameters, state, model_state, metrics, aside = taken
        for part in aside:
            asides.note(part)
        step_arguments.note_layout(state, parameters)
        return Step(parameters, state, public_model_state(model_state), metrics)

    def _compile(self) -> Callable[..., Any]:
        noted: list[targets.Targets] = []
        reads: list[captured_variables.Read] = []

        def step(
            objective: Objective,
            parameters: Any,
            state: Any,
            numbers: dict[str, tf.Tensor],
            *more: Any,
        ) -> tuple[Any, ...]:
            dtype = tf.nest.flatten(parameters)[0].dtype
            numbers = {name: tf.cast(value, dtype) for name, value in numbers.items()}
            with (
                targets.noted() as outputs,
                term_losses.noted() as losses,
                asides.noted() as aside,
            ):
                taken = self._step(objective, parameters, state, numbers, *more)
            after, after_state, *rest, metrics = taken
            if settings.optional_count(state) and not isinstance(state.step, tuple):
                after_state = after_state._replace(step=state.step + 1)
            terms = [term.objective for term in objective.terms]
            # Every network ran first in the pass that linearized the batch, term by term.
            first = outputs[: len(terms)]
            noted[:] = [
                targets.targets_of(term.loss, z, term.first_share.targets)
                for term, z in zip(terms, first, strict=False)
            ]
            reads[:] = captured_variables.variables_read(first) if first else []
            for term in terms:
                # Constraints of a Keras model's variables change where the step ends.
                after = projected(term.network, after)
            # The whole batch is linearized first, shares of it later.
            return after, after_state, *rest, {**metrics, **losses}, aside[:1]

        compiled = tf.function(step, jit_compile=self.jit_compile, autograph=False)

        def run(objective: Objective, parameters: Any, *inside: Any) -> tuple[Any, ...]:
            with loss_targets.spoken_of():
                results = compiled(objective, parameters, *inside)
            if reads:
                # The step gets values only, and can't know which variables they were read from.
                leaves = tf.nest.flatten(parameters)
                captured_variables.Sources(parameters, leaves).check(reads)
            if self.jit_compile:
                for term, accepted in zip(objective.terms, noted, strict=False):
                    accepted.check(term.objective.targets)
            return results

        return run

    def _check_state(self, parameters: Any, state: Any, key: Any) -> Any:
        """Returns a state by the parameters' names; refuses one of another optimizer or others."""
        step_arguments.check_parameters_of_step(parameters)
        with tf.Graph().as_default():
            zeros = tf.nest.map_structure(lambda leaf: tf.zeros(leaf.shape, leaf.dtype), parameters)
            like = self._with_count(self._state_like(zeros))
            expected = signature(like)
        state = parameter_names.like(state, like)
        if expected != signature(state):
            step_arguments.refuse_state(type(self).__name__, state, like, parameters)
        if len(self._states) >= 64:
            self._states.clear()
        self._states[key] = expected
        return state
