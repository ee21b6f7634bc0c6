"""Cross entropies with smoothed labels, as Keras' `label_smoothing=`."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from custom_op.losses.base import Loss
from custom_op.losses.sigmoid import SigmoidCrossEntropy
from custom_op.losses.softmax import SoftmaxCrossEntropy


@dataclasses.dataclass(frozen=True)
class SmoothedSoftmaxCrossEntropy(SoftmaxCrossEntropy):
    """The cross entropy with (1 - s) y + s/K in the place of the targets y.

    Attributes:
      smoothing: s.
    """

    smoothing: float

    def terms(self, outputs, targets):
        """Returns the terms at smoothed targets."""
        return super().terms(outputs, self._smoothed(outputs, targets))

    def term_gradients(self, outputs, targets):
        """Returns their gradients."""
        return super().term_gradients(outputs, self._smoothed(outputs, targets))

    def term_hessian_products(self, outputs, targets, vector):
        """Returns the products with their Hessian."""
        return super().term_hessian_products(outputs, self._smoothed(outputs, targets), vector)

    def sampled_gradients(self, outputs, targets, seed):
        """Returns gradients at drawn classes, which are not smoothed: their mean is the Hessian."""
        plain = SoftmaxCrossEntropy()
        return plain.sampled_gradients(outputs, self._smoothed(outputs, targets), seed)

    def _smoothed(self, outputs, targets):
        if targets.dtype.is_integer:
            targets = tf.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
        targets = tf.cast(targets, outputs.dtype)
        return (1 - self.smoothing) * targets + self.smoothing / outputs.shape[-1]


@dataclasses.dataclass(frozen=True)
class SmoothedSigmoidCrossEntropy(SigmoidCrossEntropy):
    """The cross entropy with (1 - s) y + s/2 in the place of the targets y.

    Attributes:
      smoothing: s.
    """

    smoothing: float

    def terms(self, outputs, targets):
        """Returns the terms at smoothed targets."""
        return super().terms(outputs, self._smoothed(outputs, targets))

    def term_gradients(self, outputs, targets):
        """Returns their gradients."""
        return super().term_gradients(outputs, self._smoothed(outputs, targets))

    def sampled_gradients(self, outputs, targets, seed):
        """Returns gradients at drawn targets, which are not smoothed: their mean is the Hessian."""
        return SigmoidCrossEntropy().sampled_gradients(outputs, targets, seed)

    def _smoothed(self, outputs, targets):
        targets = tf.cast(targets, outputs.dtype)
        return (1 - self.smoothing) * targets + 0.5 * self.smoothing


def smoothed(name: str, smoothing: float) -> Loss:
    """Returns a loss with smoothed labels.

    Args:
      name: `"softmax_cross_entropy"` or `"sigmoid_cross_entropy"`.
      smoothing: s, above 0 and below 1.

    Raises:
      ValueError: If s is not.
    """
    if not 0 < smoothing < 1:
        raise ValueError(f"Expected label smoothing of at least 0 and below 1, got {smoothing}.")
    if name == "softmax_cross_entropy":
        return SmoothedSoftmaxCrossEntropy(smoothing)
    return SmoothedSigmoidCrossEntropy(smoothing)
