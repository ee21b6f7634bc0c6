"""Normalisation's statistics of many images at the weights as they are, not as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mlhf import keras_call

Pair = tuple[int, int]


class PopulationStatistics:
    """Takes the moving statistics of a model anew (Wu and Johnson 2021, arXiv 2105.07576).

    A moving statistic with m = 0.997 remembers some 300 steps. In the first hundred it is mostly
    its initial value, and after long steps it belongs to weights that are gone, so a network in
    inference mode says little of where an optimizer has come to. Here every normalisation has the
    mean and the variance of its inputs over the images given, at the weights given.
    """

    def __init__(self, model: keras.Model):
        """Looks for layers with `momentum`, `moving_mean` and `moving_variance`.

        Args:
          model: A built Keras model.
        """
        self._model = model
        places = {v.path: i for i, v in enumerate(model.non_trainable_variables)}
        layers = [
            layer
            for layer in model._flatten_layers()
            if all(hasattr(layer, name) for name in ("momentum", "moving_mean", "moving_variance"))
            and layer.moving_mean.path in places
        ]
        self._layers = layers
        self._pairs: list[Pair] = [
            (places[layer.moving_mean.path], places[layer.moving_variance.path]) for layer in layers
        ]
        self._of_batch: Callable = tf.function(self._trace, autograph=False, reduce_retracing=True)

    def __bool__(self) -> bool:
        """Whether the model has any."""
        return bool(self._pairs)

    def __call__(
        self, values: Sequence[tf.Tensor], state: Sequence[tf.Tensor], batches: Iterable[Any]
    ) -> list[tf.Tensor]:
        """Returns the state with the statistics of the batches in the place of the moving ones.

        Layers see their inputs as the layers before them normalise a batch: by its own statistics,
        as in training.

        Args:
          values: Of the trainable variables, in their order.
          state: Of the others, in theirs.
          batches: Inputs, at least one batch; each counts by its size.

        Returns:
          A new list; what belongs to no normalisation is as it was.

        Raises:
          ValueError: If there are no batches.
        """
        count = 0
        sums: list[tuple[tf.Tensor, tf.Tensor]] = []
        for inputs in batches:
            size = inputs.shape[0]
            found = self._of_batch(list(values), list(state), inputs)
            new = [(size * m, size * (v + tf.square(m))) for m, v in found]
            sums = (
                new
                if not sums
                else [(a + c, b + d) for (a, b), (c, d) in zip(sums, new, strict=True)]
            )
            count += size
        if not count:
            raise ValueError("Expected images to take statistics of, got none.")
        taken = list(state)
        for (mean, variance), (first, second) in zip(self._pairs, sums, strict=True):
            taken[mean] = first / count
            taken[variance] = tf.maximum(second / count - tf.square(first / count), 0)
        return taken

    def _trace(self, values, state, inputs):
        # Without a memory, the new moving statistics are the batch's.
        kept = [layer.momentum for layer in self._layers]
        try:
            for layer in self._layers:
                layer.momentum = 0.0
            new = keras_call.call(self._model, values, state, inputs, training=True).state
        finally:
            for layer, momentum in zip(self._layers, kept, strict=True):
                layer.momentum = momentum
        return [(new[mean], new[variance]) for mean, variance in self._pairs]
