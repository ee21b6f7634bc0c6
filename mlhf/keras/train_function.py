"""The function that `fit` calls with its iterator, compiled for the sizes of batches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from mlhf import keras_internals

# Full batches, and the last one of an epoch. With a static size a step computes what it computes
# in a loop of one's own, to the last bit; all other sizes share one function.
_STATIC_SIZES = 2


class TrainFunction:
    """Takes `steps_per_execution` steps of a model on the batches of an iterator."""

    def __init__(self, model: Any, step: Callable[[Any], dict[str, Any]]) -> None:
        """Makes the function of a model.

        Args:
          model: The compiled model.
          step: A function from a batch to logs.
        """
        self._model: Any = weakref.ref(model)
        self._step = step
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._any_size: dict[Any, Callable[..., Any]] = {}

    def __call__(self, iterator: Iterator[Any]) -> dict[str, Any]:
        """Takes the steps of one execution.

        Args:
          iterator: The iterator of a data set.

        Returns:
          The logs of the last step.

        Raises:
          StopIteration: If there is no batch left.
        """
        model = self._model()
        logs = None
        for _ in range(int(model.steps_per_execution)):
            try:
                data = next(iterator)
            except StopIteration:
                if logs is None:
                    raise
                break
            logs = self._one_step(model, data)
        assert logs is not None
        return logs

    def _one_step(self, model: Any, data: Any) -> dict[str, Any]:
        strategy = model.distribute_strategy
        leaves = [_as_tensor(leaf, strategy) for leaf in tf.nest.flatten(data)]
        self._build(model, tf.nest.pack_sequence_as(data, leaves))
        if model.run_eagerly:
            return self._step(tf.nest.pack_sequence_as(data, leaves))
        tensors = [leaf for leaf in leaves if leaf is not None]
        there = tuple(leaf is not None for leaf in leaves)
        key = there, tuple((leaf.dtype, tuple(leaf.shape)) for leaf in tensors)
        function = self._compiled.get(key)
        if function is None:
            function = self._find(model, data, key, tensors)
        return function(*tensors)

    def _build(self, model: Any, data: Any) -> None:
        """Makes the variables of a model and of its optimizer where the first batch has to."""
        if model.optimizer.built:
            return
        if not all(layer.built for layer in keras_internals.layers_of(model)):
            x = keras.utils.unpack_x_y_sample_weight(data)[0]
            model(tf.nest.map_structure(lambda part: part[:1], x))
        model.optimizer.build(model.trainable_variables)

    def _find(self, model: Any, data: Any, key: Any, tensors: list[tf.Tensor]) -> Any:
        there, known = key
        batch = tensors[0].shape[0] if tensors[0].shape.rank else None

        def step(*inside: tf.Tensor) -> dict[str, Any]:
            remaining = iter(inside)
            leaves = [next(remaining) if present else None for present in there]
            return self._step(tf.nest.pack_sequence_as(data, leaves))

        def compile_for(specs: list[tf.TensorSpec]) -> Any:
            return tf.function(
                step, input_signature=specs, jit_compile=model.jit_compile, autograph=False
            )

        others = [other for other in self._compiled if _without_sizes(other) == _without_sizes(key)]
        known_only = getattr(model.optimizer.optimizer, "needs_known_sizes", False)
        if known_only or len(others) < _STATIC_SIZES:
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
            function = self._compiled[key] = compile_for(specs)
            return function
        general = _without_sizes(key)
        if general not in self._any_size:
            specs = [
                tf.TensorSpec([None, *shape[1:]] if shape and shape[0] == batch else shape, dtype)
                for dtype, shape in known
            ]
            self._any_size[general] = compile_for(specs)
        return self._any_size[general]


def _without_sizes(key: Any) -> Any:
    there, known = key
    return there, tuple((dtype, shape[1:]) for dtype, shape in known)


def _as_tensor(leaf: Any, strategy: Any) -> tf.Tensor | None:
    # Data sets have an optional for what is missing.
    if leaf is None or isinstance(leaf, tf.experimental.Optional):
        return None
    if isinstance(leaf, tf.distribute.DistributedValues):
        # Whole again, since the optimizer divides it itself, as it divides that of any loop.
        shares = [share for share in strategy.experimental_local_results(leaf) if len(share)]
        return tf.concat(shares, 0)
    return tf.convert_to_tensor(leaf)
