"""A training to differentiate through: its losses, dynamics and number of steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mlhf.hypergrad import arguments
from mlhf.hypergrad.batches import Minibatches
from mlhf.hypergrad.dynamics.base import Dynamics

OUTER = "valid_loss"


class Problem:
    """Training for T steps, and the losses that are measured after it.

    Training minimises `train_loss` by `dynamics`; the hypergradient is the derivative of
    `valid_loss` at the last weights with respect to the hyperparameters, through all steps and
    directly. Every method takes the problem, the weights to begin with, and the hyperparameters:

        problem = Problem(train_loss, valid_loss, dynamics=Momentum(0.1, 0.9), steps=100)
        result = reverse(problem, weights, {"learning_rate": 0.1, "l2": 1e-4})

    Hyperparameters are a mapping from names to floating tensors or structures of them. A
    hyperparameter's name says what it is:

    - one of the dynamics' own, such as `learning_rate`: one value, one per step [T], one per group
      [G], both [T, G], or a structure like the weights. Those that are not passed keep the
      dynamics' constants;
    - `initial_weights`, a structure like the weights: where training begins;
    - `initial_velocity`, a structure like the weights;
    - any other name: a hyperparameter of any shape that the losses read.

    Attributes:
      train_loss: The training loss.
      outer_losses: The outer losses, functions by name in sorted order.
      dynamics: The dynamics.
      steps: The number of steps, T.
      aggregation: How the gradients of several outer losses become one.
    """

    def __init__(
        self,
        train_loss: Callable[..., tf.Tensor],
        valid_loss: Callable[..., tf.Tensor] | Mapping[str, Callable[..., tf.Tensor]],
        *,
        dynamics: Dynamics,
        steps: int,
        batches: Callable[..., Any] | None = None,
        initial: Callable[..., Any] | None = None,
        follows: Mapping[str, str | Sequence[str]] | None = None,
        aggregation: str | Callable[[dict[str, tf.Tensor]], tf.Tensor] = "sum",
        schedules: Sequence[str] = (),
        groups: Mapping[str, str] | None = None,
        check_layers: bool = True,
    ):
        """Describes the training.

        Args:
          train_loss: A function from `(weights, hyperparameters, step)` to a scalar. `step` is an
            int32 scalar tensor from 0 to T - 1; batch, dropout and augmentation must be pure
            functions of it, because a step is computed again in the backward pass. Schedules in
            `hyperparameters` have their value in the step. A parameter named `batch` gets what
            `batches` returns, and one named `seed` the int32 scalar `seed` of the method's call.
          valid_loss: A function from `(weights, hyperparameters)` to a scalar, or a mapping from
            names to several; each may have a parameter named `seed`.
          dynamics: `GradientDescent`, `Momentum`, `Adam` or your own subclass of `Dynamics`.
          steps: The number of steps, T, positive.
          batches: A function from a step (and `seed`, if it has a parameter of that name) to a
            structure of arrays with the same shapes for all steps. It is called with Python
            integers, in order in the forward pass and in reverse order in the backward pass; a
            `Minibatches` is built into the graph instead, and has its own orders for each seed of
            a method's call.
          initial: Φ₀, a function from hyperparameters (and `seed`) to the weights that training
            begins with. Its noise must be the same at every call.
          follows: A mapping from a hyperparameter's name to the outer loss or losses whose gradient
            it follows; by default all of them.
          aggregation: How the gradients of several outer losses become one: `"sum"`, `"mean"`, or
            a function of a dictionary from the loss's name to the gradient.
          schedules: The names of the losses' hyperparameters that have a leading axis of T. (The
            dynamics' own are recognised by their shapes.)
          groups: A mapping from a weight's name to its group; by default each leaf is a group.
          check_layers: Whether operations whose second derivative is silently wrong in TensorFlow
            are refused.

        Raises:
          TypeError: If a loss is not callable.
          ValueError: If `steps` is not positive, `Minibatches` have fewer steps, or an option names
            something that does not exist.
        """
        self.outer_losses = (
            dict(sorted(valid_loss.items()))
            if isinstance(valid_loss, Mapping)
            else {OUTER: valid_loss}
        )
        for what, function in [
            ("train_loss", train_loss),
            *self.outer_losses.items(),
            *([("batches", batches)] if batches is not None else []),
            *([("initial", initial)] if initial is not None else []),
        ]:
            if not callable(function):
                raise TypeError(f"Expected {what} to be callable, got {function!r}.")
        if not self.outer_losses:
            raise ValueError("Expected at least one outer loss, got an empty mapping.")
        if not isinstance(dynamics, Dynamics):
            raise TypeError(
                "Expected dynamics= such as mlhf.hypergrad.Momentum(), got "
                f"{type(dynamics).__name__}."
            )
        if int(steps) != steps or steps < 1:
            raise ValueError(f"Expected steps to be a positive integer, got {steps}.")
        if (batches is not None) != ("batch" in _parameters(train_loss)):
            raise ValueError(
                "Expected batches= together with a train_loss(weights, hyperparameters, step, "
                f"batch), got batches={'given' if batches is not None else None} and a train_loss "
                f"with the parameters {_parameters(train_loss)}."
            )
        if isinstance(batches, Minibatches) and batches.steps < steps:
            raise ValueError(
                f"Expected Minibatches of at least the {steps} steps of training, got "
                f"{batches.steps}; make them with steps={steps}."
            )
        if not (aggregation in ("sum", "mean") or callable(aggregation)):
            raise ValueError(f'Expected aggregation "sum", "mean" or a function, got {aggregation}')
        self.train_loss, self.dynamics, self.steps = train_loss, dynamics, int(steps)
        self.batches, self.initial, self.aggregation = batches, initial, aggregation
        self.schedules, self.groups, self.check_layers = tuple(schedules), groups, check_layers
        self.follows = dict(follows or {})
        for name in self.follows:
            unknown = set(self.followed(name)) - set(self.outer_losses)
            if unknown:
                raise ValueError(
                    f"Expected follows[{name!r}] among {list(self.outer_losses)}, got "
                    f"{sorted(unknown)}."
                )
        self.trainings: dict[Any, Any] = {}  # those that `binding.bind` made, by shapes

    def followed(self, name: str) -> list[str]:
        """Returns the names of the outer losses that a hyperparameter follows."""
        names = self.follows.get(name, list(self.outer_losses))
        return [names] if isinstance(names, str) else list(names)

    def call_initial(self, hyper: Any, seed: tf.Tensor) -> Any:
        """Returns Φ₀ of the hyperparameters."""
        initial = self.initial
        assert initial is not None
        made = arguments.called(
            "initial",
            {"hyperparameters": hyper},
            lambda: call_named(initial, {"seed": seed}, hyper),
        )
        if not tf.nest.flatten(made) or any(leaf is None for leaf in tf.nest.flatten(made)):
            raise ValueError(
                f"Expected initial(hyperparameters) to return a structure of tensors, got {made!r}."
            )
        return made

    def call_train(self, weights: Any, rows: Any, step: Any, batch: Any, seed: Any) -> tf.Tensor:
        """Returns the training loss of a step."""
        named = {"batch": batch, "seed": seed}
        given = {"weights": weights, "hyperparameters": rows, "batch": batch}
        value = arguments.called(
            "train_loss", given, lambda: call_named(self.train_loss, named, weights, rows, step)
        )
        return _scalar("train_loss", value)

    def call_outer(self, name: str, weights: Any, hyper: Any, seed: Any) -> tf.Tensor:
        """Returns an outer loss."""
        loss = self.outer_losses[name]
        value = arguments.called(
            name,
            {"weights": weights, "hyperparameters": hyper},
            lambda: call_named(loss, {"seed": seed}, weights, hyper),
        )
        return _scalar(name, value)

    def aggregate(self, gradients: dict[str, Any]) -> Any:
        """Returns the gradients of several outer losses, by name, as one."""
        if len(gradients) == 1 and not callable(self.aggregation):
            return next(iter(gradients.values()))
        if callable(self.aggregation):
            return self.aggregation(gradients)
        total = tf.add_n(list(gradients.values()))
        return total / len(gradients) if self.aggregation == "mean" else total


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def call_named(function: Callable[..., Any], named: Mapping[str, Any], *args: Any) -> Any:
    """Calls a function with the named arguments that it has parameters for."""
    wanted = _parameters(function)
    return function(*args, **{name: value for name, value in named.items() if name in wanted})


def _scalar(name: str, value: Any) -> tf.Tensor:
    if value is None or tf.nest.is_nested(value):
        raise ValueError(f"Expected {name} to return a floating scalar, got {value!r}.")
    value = tf.convert_to_tensor(value)
    if value.shape.rank != 0 or not value.dtype.is_floating:
        raise ValueError(
            f"Expected {name} to return a floating scalar, got {value.dtype.name} of shape "
            f"{value.shape}; take its mean."
        )
    return value
