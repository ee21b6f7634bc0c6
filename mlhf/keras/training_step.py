"""One step of `fit`: the step of an `mlhf` optimizer on a batch, and Keras' metrics."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mlhf import keras_internals
from mlhf.checks import asides
from mlhf.distribute import DataParallel
from mlhf.keras import layer_penalties, network, outputs
from mlhf.keras.optimizer import Optimizer
from mlhf.keras.outputs import Output
from mlhf.models import keras_call, keras_contracts
from mlhf.objective import Objective, joint_loss


class TrainingStep:
    """The step that `mlhf.keras.compile` gives to a model."""

    def __init__(self, model: Any, optimizer: Optimizer) -> None:
        """Makes the step of a model."""
        self._model: Any = weakref.ref(model)
        self._optimizer = optimizer
        strategy = model.distribute_strategy
        self._replicas: int = strategy.num_replicas_in_sync
        self._divided: Any = None
        if self._replicas > 1:
            self._divided = DataParallel(strategy, optimizer.optimizer)

    def __call__(self, data: Any) -> dict[str, Any]:
        """Takes a step on a batch.

        Args:
          data: The batch as `fit` hands it to `train_step`.

        Returns:
          The logs: the metrics' values, and the optimizer's numbers that were asked for.

        Raises:
          ValueError: If the model asks for something that would be left out, or the loss, targets
            or weights do not fit.
        """
        model, optimizer = self._model(), self._optimizer
        keras_contracts.check(model)
        optimizer.check_variables(model.trainable_variables)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = tf.nest.map_structure(tf.convert_to_tensor, x)
        objective, masks = self._objective(model, x, y, sample_weight)
        parameters, state = optimizer.read()
        size = objective.targets.shape[0]
        # Fewer examples than replicas, as an epoch's last batch may have, are computed undivided.
        is_whole = self._divided is None or (size is not None and size < self._replicas)
        stepper = optimizer.optimizer if is_whole else self._divided
        with asides.noted() as noted:
            step = stepper.step(objective, parameters, state)
        y_pred = self._outputs(model, noted, x)
        for part, mask in zip(tf.nest.flatten(y_pred), masks, strict=True):
            keras_internals.set_mask(part, mask)
        loss = step.metrics["loss"]
        size = tf.shape(tf.nest.flatten(x)[0])[0]
        keras_internals.loss_tracker(model).update_state(loss, sample_weight=size)
        if len(tf.nest.flatten(y_pred)) > 1:
            # For the losses of each output in the logs.
            model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
        logs = model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        optimizer.write(step.parameters, step.state)
        names = sorted(step.model_state) if step.model_state else []
        for variable, name in zip(model.non_trainable_variables, names, strict=True):
            variable.assign(step.model_state[name])
        return {**logs, **self._numbers(step.metrics)}

    def _numbers(self, metrics: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the optimizer's numbers that were asked for as logs."""
        asked = self._optimizer.logs
        known = sorted(set(metrics) - {"loss"})
        if asked is True:
            asked = known
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise ValueError(
                f"Expected logs= among the numbers of {type(self._optimizer.optimizer).__name__}, "
                f"{known}, got {unknown}."
            )
        return {name: metrics[name] for name in asked}

    def _objective(
        self, model: Any, x: Any, y: Any, sample_weight: Any
    ) -> tuple[Objective, list[Any]]:
        """Returns what the step is taken on, and the masks of the model's outputs."""
        optimizer = self._optimizer
        state = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]
        probe = self._probe(model, state, x)
        names = outputs.names_of(model, probe.outputs)
        flat = _flat(probe.outputs)
        weights = keras_internals.loss_weights_of(model)
        given = _are_compared(model.loss, names)
        targets = outputs.targets_of(y, names, given)
        targets = [None if part is None else tf.convert_to_tensor(part) for part in targets]
        compared = outputs.compared(
            model.loss, weights, names, list(zip(targets, flat, strict=True))
        )
        of_layers, penalties = layer_penalties.of_layers(model, optimizer.names)
        regularizer = layer_penalties.both(of_layers, optimizer.regularizer)
        masks = [None] * len(flat) if probe.mask is None else tf.nest.flatten(probe.mask)
        rows = outputs.weights_of(sample_weight, names)
        parts = [
            _counted(output, flat[output.place], rows[output.place], masks[output.place])
            for output in compared
        ]
        keys = [f"{k:04d}/{v.path}" for k, v in enumerate(model.non_trainable_variables)]
        loss, joined = _joined(compared, flat, targets, parts)
        objective = Objective(
            network.as_network(model, optimizer.names, compared, penalties),
            loss,
            x,
            joined[0],
            dict(zip(keys, state, strict=True)) or None,
            regularizer,
            weights=joined[1],
            mask=joined[2],
        )
        return objective, masks

    def _probe(self, model: Any, state: Sequence[tf.Tensor], x: Any) -> keras_call.Called:
        """Returns the model's outputs in training mode, for their structure, and masks.

        What is not used of it does not run, since it is in a graph.
        """
        known = getattr(model, "outputs", None)
        masked = keras_internals.makes_masks(model)
        if known and len(known) == 1 and not masked:
            spec = tf.TensorSpec(known[0].shape, known[0].dtype)
            return keras_call.Called(spec, [], None)
        values = [tf.convert_to_tensor(variable) for variable in model.trainable_variables]
        penalties = layer_penalties.of_layers(model, self._optimizer.names)[1]

        def run(values: Any, state: Any, x: Any) -> Any:
            called = keras_call.call_with_all_outputs(
                model,
                values,
                state,
                x,
                training=True,
                advice=network.ADVICE,
                penalties=penalties,
            )
            return called

        if tf.executing_eagerly():
            return tf.function(run, autograph=False)(values, list(state), x)
        return run(values, state, x)

    def _outputs(self, model: Any, noted: list[Any], x: Any) -> Any:
        """Returns the outputs of the step's forward pass, with their masks."""
        here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        for structure in noted[:1]:
            parts = tf.nest.flatten(structure)
            if all(here is None or getattr(part, "graph", None) is here for part in parts):
                return structure
        # The optimizer of another package, which traced the network out of sight.
        state = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]
        values = [tf.convert_to_tensor(v) for v in model.trainable_variables]
        return keras_call.call_with_all_outputs(
            model, values, state, x, training=True, penalties=len(values)
        ).outputs


def _are_compared(loss: Any, names: Sequence[str | None]) -> list[bool]:
    if isinstance(loss, dict):
        return [loss.get(name) is not None for name in names]
    if isinstance(loss, (list, tuple)) and len(loss) == len(names):
        return [one is not None for one in loss]
    return [True] * len(names)


def _flat(structure: Any) -> list[Any]:
    return [structure] if hasattr(structure, "shape") else tf.nest.flatten(structure)


def _counted(output: Output, tensor: Any, weights: Any, mask: Any) -> tuple[Any, Any]:
    """Returns the weights of an output's terms in their shape, and their mask."""
    if weights is None:
        return None, mask
    weights, rank = tf.convert_to_tensor(weights), len(tensor.shape) - 1
    if not weights.dtype.is_floating:
        weights = tf.cast(weights, tf.float32)
    if weights.shape.rank is not None and weights.shape.rank > rank and weights.shape[-1] == 1:
        weights = tf.squeeze(weights, -1)
    if output.by_weights:
        counted = weights
        total = tf.cast(tf.size(weights), weights.dtype)
        if mask is not None:
            there = tf.cast(mask, weights.dtype)
            counted, total = weights * there, tf.reduce_sum(there)
        weights *= tf.math.divide_no_nan(total, tf.reduce_sum(counted))
    return weights, mask


def _joined(
    compared: Sequence[Output],
    flat: Sequence[Any],
    targets: Sequence[Any],
    parts: Sequence[tuple[Any, Any]],
) -> tuple[Any, tuple[Any, Any, Any]]:
    """Returns one loss of the compared outputs, and its targets, weights and mask."""
    if len(compared) == 1 and compared[0].weight == 1:
        weights, mask = parts[0]
        return compared[0].loss, (targets[compared[0].place], weights, mask)
    pieces = []
    for output, (weights, mask) in zip(compared, parts, strict=True):
        own = targets[output.place]
        shapes: list[Any] = [
            None if part is None else tuple(part.shape[1:])
            for part in (flat[output.place], own, weights, mask)
        ]
        for what, shape in zip(("outputs", "targets", "weights", "masks"), shapes, strict=True):
            if shape is not None and None in shape:
                raise ValueError(
                    f"Expected {what} of static shape where there are several outputs or loss "
                    f"weights, got {shape} of {output.name!r} after the axis of examples: give "
                    "batches of one length, or one output."
                )
        pieces.append(
            joint_loss.Part(
                output.loss,
                output.weight,
                shapes[0],
                tf.TensorSpec(shapes[1], own.dtype),
                shapes[2],
                shapes[3],
            )
        )
    some = [[part[k] for part in parts] for k in (0, 1)]
    wide = tf.float64
    return joint_loss.JointLoss(pieces), (
        joint_loss.beside([targets[output.place] for output in compared], wide),
        joint_loss.beside(some[0], wide) if any(w is not None for w in some[0]) else None,
        joint_loss.beside(some[1], tf.bool) if any(m is not None for m in some[1]) else None,
    )
