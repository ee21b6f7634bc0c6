"""Tasks, which are trained over and over while an optimizer is meta-trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import custom_op
from mlhf import kinds
from mlhf.models import keras_contracts, keras_models
from mlhf.objective import Objective, ObjectiveSum, Regularizer

_SHAPES = (
    "Expected batches of one static shape, got {} from the task {!r}: batch its data with "
    "drop_remainder=True."
)


@dataclasses.dataclass(frozen=True)
class Task:
    """A network, a loss, initial parameters and batches.

    Attributes:
      network: The network, as for `mlhf.Objective`; it may be a Keras model. A dictionary of
        functions makes the objective an `mlhf.ObjectiveSum`: `loss`, inputs and targets are
        dictionaries then too.
      loss: The loss, as for `mlhf.Objective`.
      initialize: A function from a seed to initial parameters, a structure of floating tensors.
      batches: A function from k to an iterable of (inputs, targets) that begins with batch k: a
        `tf.data.Dataset` or any other. Batch k has to be the same whenever it is asked for, so
        that a continued run sees what an uninterrupted one sees; shapes are static.
      kinds: The kinds of variables where paths do not tell them, as for
        `mlhf.resolve_kinds`. A Keras model's come from its layers.
      model_state: The initial state that the network has besides parameters.
      regularizer: The regularizer, as for `mlhf.Objective`.
      name: The name of the task in logs.
      term_weights: The weights of a sum's terms, numbers by name.

    Raises:
      ValueError: If networks and losses do not have the same names.
    """

    network: Any
    loss: str | custom_op.losses.Loss | Mapping[str, str | custom_op.losses.Loss]
    initialize: Callable[[int], Any]
    batches: Callable[[int], Iterable[tuple[Any, Any]]]
    kinds: Any = None
    model_state: Any = None
    regularizer: Regularizer | None = None
    name: str = "task"
    term_weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        several = isinstance(self.network, Mapping)
        losses = sorted(self.loss) if isinstance(self.loss, Mapping) else None
        if losses != (sorted(self.network) if several else None):
            raise ValueError(
                "Expected one network and one loss, or dictionaries of both with the same names, "
                f"got the networks {sorted(self.network) if several else self.network!r} and the "
                f"losses {losses or self.loss!r}."
            )
        if several and self.model_state is not None:
            raise ValueError("Expected a sum of networks without a model_state, got one.")
        if self.term_weights is not None and not several:
            raise ValueError("Expected term_weights= for several networks, got a single network.")

    def __repr__(self) -> str:
        """Returns the name, the network and the loss in one line."""
        name = next(
            (getattr(self.network, n) for n in ("name", "__name__") if hasattr(self.network, n)),
            type(self.network).__name__,
        )
        loss = self.loss if isinstance(self.loss, str) else type(self.loss).__name__
        if isinstance(self.network, Mapping):
            return f"Task({self.name!r}, terms={', '.join(sorted(self.network))})"
        return f"Task({self.name!r}, network={name}, loss={loss})"

    def objective(self, inputs: Any, targets: Any, model_state: Any = None) -> Objective:
        """Returns the objective of a batch, in the given or the initial model state."""
        if isinstance(self.loss, Mapping):
            terms = {
                name: Objective(network, self.loss[name], inputs[name], targets[name])
                for name, network in self.network.items()
            }
            return ObjectiveSum(terms, self.term_weights, self.regularizer)
        if model_state is None:
            model_state = self.model_state
        return Objective(self.network, self.loss, inputs, targets, model_state, self.regularizer)

    def initial_model_state(self) -> Any:
        """Returns the initial state of the network; `()` if it has none."""
        if self.model_state is not None:
            return tf.nest.map_structure(tf.convert_to_tensor, self.model_state)
        if keras_models.is_model(self.network):
            return keras_models.get_model_state(self.network) or ()
        return ()

    def check_rollouts(self) -> None:
        """Checks that a Keras model asks for nothing that rollouts of meta-training leave out.

        Raises:
          ValueError: If its variables have constraints.
        """
        if keras_models.is_model(self.network):
            keras_contracts.check_unconstrained(self.network, "rollouts of meta-training")

    def variable_kinds(self) -> Any:
        """Returns the argument `kinds` for an optimizer."""
        if keras_models.is_model(self.network):
            return kinds.with_layers(self.network, self.kinds)
        return self.kinds

    def rollout_batches(self, start: int, length: int) -> Iterable[tuple[Any, Any]]:
        """Yields the batches of rollouts, `length` at a time, stacked along a leading time axis.

        Args:
          start: The number of the first batch.
          length: T, the steps of a rollout.

        Yields:
          Inputs and targets as structures of tensors, until fewer than `length` batches are left.

        Raises:
          ValueError: If the batches do not all have one static shape.
        """
        stream = self.batches(start)
        if isinstance(stream, tf.data.Dataset):
            for spec in tf.nest.flatten(stream.element_spec):
                if not spec.shape.is_fully_defined():
                    raise ValueError(_SHAPES.format(f"one of shape {spec.shape}", self.name))
            yield from stream.batch(length, drop_remainder=True).prefetch(2)
            return
        iterator = iter(stream)
        while True:
            group = [batch for _, batch in zip(range(length), iterator, strict=False)]
            if len(group) < length:
                return
            for batch in group[1:]:
                first, other = _shapes_of(group[0]), _shapes_of(batch)
                if first != other:
                    raise ValueError(_SHAPES.format(f"one of {first}, one of {other}", self.name))
            yield tf.nest.map_structure(lambda *values: tf.stack(values), *group)


def _shapes_of(batch: Any) -> list[tuple[int, ...]]:
    return [np.shape(part) for part in tf.nest.flatten(batch)]


def draw_missing_weights(tasks: Sequence[Task], optimizer: Any, seed: int) -> None:
    """Draws weights for the kinds of the tasks' variables for which an optimizer has none.

    Args:
      tasks: The tasks, at least one.
      optimizer: The `MetaHessianFree` that gets the weights.
      seed: The seed of initial parameters, of which only the shapes matter.
    """
    layouts = [optimizer.layout(task.initialize(seed), task.variable_kinds()) for task in tasks]
    kinds = {kind for layout in layouts for kind in layout.kinds}
    optimizer.draw_weights(sorted(kinds), layouts[0].dtype)
