"""A Keras model as the network of an objective: its outputs as the losses compare them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mlhf.checks import asides
from mlhf.keras.outputs import Output
from mlhf.models import keras_call, keras_contracts, natural_outputs

ADVICE = (
    "Of layers' own losses fit knows keras.regularizers.L2 of their variables here; give others as "
    "mlhf.keras.compile(regularizer=...), an object like mlhf.L2."
)


def as_network(
    model: Any, names: Sequence[str], outputs: Sequence[Output], penalties: int
) -> Callable[..., Any]:
    """Returns the network of an objective that stands for a model in training mode.

    Args:
      model: A built `keras.Model`.
      names: The names of its trainable variables, in their order.
      outputs: The outputs that are compared, at least one. Several are flattened and joined.
      penalties: The number of penalties on variables that the objective's regularizer has.

    Returns:
      A function as for `mlhf.Objective`. It notes the model's outputs aside.
    """
    reference = weakref.ref(model)
    title = repr(model.name)

    def call(values: Sequence[tf.Tensor], state: Sequence[tf.Tensor], inputs: Any) -> Any:
        called = keras_call.call_with_all_outputs(
            reference(), values, state, inputs, training=True, advice=ADVICE, penalties=penalties
        )
        asides.note(called.outputs)
        flat = tf.nest.flatten(called.outputs)
        dtype = values[0].dtype
        compared = [_compared(output, flat[output.place], title, dtype) for output in outputs]
        if len(compared) == 1:
            return compared[0], called.state
        rows = [tf.reshape(part, [tf.shape(part)[0], -1]) for part in compared]
        widths = [part.shape[1:].num_elements() for part in compared]
        joined = tf.concat(rows, 1)
        return tf.ensure_shape(joined, [compared[0].shape[0], sum(widths)]), called.state

    def stateless_network(parameters: Mapping[str, tf.Tensor], inputs: Any) -> Any:
        return call([parameters[name] for name in names], [], inputs)[0]

    def stateful_network(
        parameters: Mapping[str, tf.Tensor], model_state: Mapping[str, tf.Tensor], inputs: Any
    ) -> Any:
        keys = sorted(model_state)
        values = [parameters[name] for name in names]
        compared, new = call(values, [model_state[key] for key in keys], inputs)
        return compared, dict(zip(keys, new, strict=True))

    network: Any = stateful_network if model.non_trainable_variables else stateless_network
    constraints = keras_contracts.constraints_of(model)
    paths = [variable.path for variable in model.trainable_variables]
    network.constraints = {
        name: constraints[path]
        for path, name in zip(paths, names, strict=True)
        if path in constraints
    }
    return network


def _compared(output: Output, tensor: tf.Tensor, title: str, dtype: tf.DType) -> tf.Tensor:
    """Returns an output as its loss compares it: from before an activation, in full precision."""
    if output.activation is not None:
        tensor = natural_outputs.undone(tensor, output.activation, output.is_activated, title)
    if tensor.dtype in (tf.float16, tf.bfloat16):
        tensor = tf.cast(tensor, dtype)
    return tensor
