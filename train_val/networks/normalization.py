"""Batch normalisation whose derivatives of every order are right."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="train_val")
class ExactBatchNormalization(keras.layers.Layer):
    """Computes γ (x - mean) / sqrt(variance + ε) + β, with the batch's statistics in training.

    `keras.layers.BatchNormalization` takes its statistics from `tf.nn.moments`, which stops the
    gradient of the mean inside the variance: first derivatives are right and second ones wrong,
    and with them Hessian products and hypergradients. Here they are plain means. The moving
    statistics follow the batch's (biased) ones, moving ← m · moving + (1 - m) · batch.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.997,
        epsilon: float = 1e-5,
        **settings: Any,
    ) -> None:
        """Sets a layer up.

        Args:
          axis: The axis of the channels; all others, including the batch's, are averaged over.
          momentum: The factor m of the moving statistics.
          epsilon: The number ε that is added to the variance.
          **settings: Settings of a Keras layer, such as name and dtype.
        """
        super().__init__(**settings)
        self.axis, self.momentum, self.epsilon = axis, momentum, epsilon

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Creates γ = 1, β = 0 and the moving statistics 0 and 1, each [channels]."""
        shape = (input_shape[self.axis],)
        self.gamma = self.add_weight(shape=shape, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")
        moving = {"shape": shape, "trainable": False}
        self.moving_mean = self.add_weight(initializer="zeros", name="moving_mean", **moving)
        self.moving_variance = self.add_weight(initializer="ones", name="moving_variance", **moving)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the normalised inputs, of their shape."""
        rank = len(inputs.shape)
        channels = self.axis % rank
        shape = [1] * rank
        shape[channels] = inputs.shape[channels]

        def spread(values: Any) -> tf.Tensor:
            return tf.reshape(tf.convert_to_tensor(values), shape)

        if training:
            others = [axis for axis in range(rank) if axis != channels]
            mean = tf.reduce_mean(inputs, others, keepdims=True)
            centred = inputs - mean
            variance = tf.reduce_mean(tf.square(centred), others, keepdims=True)
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                batch = tf.cast(tf.reshape(batch, [-1]), moving.dtype)
                moving.assign(self.momentum * moving + (1 - self.momentum) * batch)
        else:
            centred = inputs - spread(self.moving_mean)
            variance = spread(self.moving_variance)
        normalized = centred * tf.math.rsqrt(variance + self.epsilon)
        return normalized * spread(self.gamma) + spread(self.beta)

    def get_config(self) -> dict[str, Any]:
        """Returns the settings from which `from_config` makes an equal layer."""
        own = {"axis": self.axis, "momentum": self.momentum, "epsilon": self.epsilon}
        return {**super().get_config(), **own}
