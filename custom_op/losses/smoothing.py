"""Cross entropies with smoothed labels, as with Keras' `label_smoothing=`."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import tensorflow as tf

from custom_op.losses.base import Loss, MeanLoss
from custom_op.losses.sigmoid import SigmoidCrossEntropy
from custom_op.losses.softmax import SoftmaxCrossEntropy


@dataclasses.dataclass(frozen=True)
class _Smoothed(MeanLoss):
    """A loss that is another one at smoothed targets.

    Attributes:
      smoothing: The share s of a uniform distribution in the targets.
    """

    smoothing: float
    plain: ClassVar[MeanLoss]

    @abc.abstractmethod
    def _smoothed(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor: ...

    def terms(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the terms at smoothed targets."""
        return self.plain.terms(outputs, self._smoothed(outputs, targets))

    def term_gradients(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the gradients of the terms."""
        return self.plain.term_gradients(outputs, self._smoothed(outputs, targets))

    def term_hessian_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns the products with the terms' Hessian."""
        return self.plain.term_hessian_products(outputs, self._smoothed(outputs, targets), vector)

    def sampled_gradients(
        self, outputs: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns gradients at drawn targets, which are not smoothed: their mean is the Hessian."""
        return self.plain.sampled_gradients(outputs, self._smoothed(outputs, targets), seed)


class SmoothedSoftmaxCrossEntropy(_Smoothed, SoftmaxCrossEntropy):
    """The cross entropy with (1 - s) y + s/K in place of the targets y."""

    plain = SoftmaxCrossEntropy()

    def _smoothed(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        if targets.dtype.is_integer:
            targets = tf.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
        targets = tf.cast(targets, outputs.dtype)
        return (1 - self.smoothing) * targets + self.smoothing / outputs.shape[-1]


class SmoothedSigmoidCrossEntropy(_Smoothed, SigmoidCrossEntropy):
    """The cross entropy with (1 - s) y + s/2 in place of the targets y."""

    plain = SigmoidCrossEntropy()

    def _smoothed(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        targets = tf.cast(targets, outputs.dtype)
        return (1 - self.smoothing) * targets + 0.5 * self.smoothing


def smoothed(name: str, smoothing: float) -> Loss:
    """Returns a loss with smoothed labels.

    Args:
      name: `"softmax_cross_entropy"` or `"sigmoid_cross_entropy"`.
      smoothing: The share s of a uniform distribution in the targets, above 0 and below 1.

    Returns:
      The loss.

    Raises:
      ValueError: If s is out of range.
    """
    if not 0 < smoothing < 1:
        raise ValueError(f"Expected label smoothing of at least 0 and below 1, got {smoothing}.")
    if name == "softmax_cross_entropy":
        return SmoothedSoftmaxCrossEntropy(smoothing)
    return SmoothedSigmoidCrossEntropy(smoothing)
