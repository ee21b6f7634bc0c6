"""The weighted sum of the losses of several outputs, as one loss of the outputs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op.losses import Evaluation, Loss


class Part(NamedTuple):
    """An output and what it is compared with: shapes are without the axis of examples."""

    loss: Loss
    weight: float
    outputs: tuple[int, ...]
    targets: tf.TensorSpec
    weights: tuple[int, ...] | None  # None for none
    mask: tuple[int, ...] | None


class JointLoss(Loss):
    """Σ cₖ ℓₖ over the parts of outputs [B, Σ Nₖ], each in the shape of its output.

    Targets, weights and masks lie side by side in the same way, in double precision, which holds
    labels and numbers exactly.

    Attributes:
      parts: The parts, in the order of the outputs.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """Makes the loss of some parts."""
        self.parts = list(parts)

    def check(self, outputs: tf.Tensor, targets: tf.Tensor) -> None:
        """Leaves the checks to the parts."""

    def evaluate(
        self,
        outputs: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> Evaluation:
        """Returns the sum at a network's outputs."""
        evaluations = []
        for part, z, y, w, m in self.apart(outputs, targets, weights, mask):
            several = {"weights": w, "mask": m} if w is not None or m is not None else {}
            evaluations.append((part.weight, part.loss.evaluate(z, y, **several)))
        return _JointEvaluation(self, outputs, targets, evaluations)

    def apart(
        self,
        outputs: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> list[tuple[Part, tf.Tensor, tf.Tensor, tf.Tensor | None, tf.Tensor | None]]:
        """Returns each part with its own outputs, targets, weights and mask."""
        specs = [tf.TensorSpec(part.outputs, outputs.dtype) for part in self.parts]
        of_targets = [part.targets for part in self.parts]
        of_weights = [_spec(part.weights, outputs.dtype) for part in self.parts]
        of_masks = [_spec(part.mask, tf.bool) for part in self.parts]
        return list(
            zip(
                self.parts,
                apart(outputs, specs),
                apart(targets, of_targets),
                apart(weights, of_weights),
                apart(mask, of_masks),
                strict=True,
            )
        )

    def value(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns Σ cₖ ℓₖ."""
        return self.evaluate(outputs, targets).value()

    def gradient(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the gradients in the outputs, side by side."""
        return self.evaluate(outputs, targets).gradient()

    def hessian_product(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns the product with the Hessian, whose blocks are the parts'."""
        return self.evaluate(outputs, targets).hessian_product(vector)


class _JointEvaluation(Evaluation):
    """The sum at one batch; its count is the number of examples."""

    def __init__(
        self, loss: JointLoss, outputs: tf.Tensor, targets: tf.Tensor, parts: list[Any]
    ) -> None:
        super().__init__(loss, outputs, targets)
        self._evaluations = parts

    def value(self, scale: Any = None) -> tf.Tensor:
        """Returns Σ cₖ ℓₖ."""
        terms = [weight * evaluation.value() for weight, evaluation in self._evaluations]
        return self._rescaled(tf.add_n(terms), scale)

    def gradient(self, scale: Any = None) -> tf.Tensor:
        """Returns the gradients, side by side."""
        parts = [weight * evaluation.gradient() for weight, evaluation in self._evaluations]
        return self._rescaled(beside(parts, self.outputs.dtype), scale)

    def hessian_product(self, vector: tf.Tensor, scale: Any = None) -> tf.Tensor:
        """Returns the product with the block-diagonal Hessian."""
        specs = [
            tf.TensorSpec(evaluation.outputs.shape[1:], self.outputs.dtype)
            for _, evaluation in self._evaluations
        ]
        parts = [
            weight * evaluation.hessian_product(u)
            for (weight, evaluation), u in zip(self._evaluations, apart(vector, specs), strict=True)
        ]
        return self._rescaled(beside(parts, self.outputs.dtype), scale)


def beside(parts: Sequence[tf.Tensor | None], dtype: tf.DType) -> tf.Tensor:
    """Returns tensors [B, ...] side by side, [B, Σ N], without those that are None."""
    rows = [tf.reshape(part, [tf.shape(part)[0], -1]) for part in parts if part is not None]
    return tf.concat([tf.cast(row, dtype) for row in rows], 1)


def apart(whole: tf.Tensor | None, specs: Sequence[tf.TensorSpec | None]) -> list[Any]:
    """Returns the tensors that `beside` joined.

    Args:
      whole: The tensors side by side, or None for none.
      specs: Their shapes, without the first axis, and dtypes; None for those left out.
    """
    if whole is None:
        return [None] * len(specs)
    found: list[Any] = []
    start = 0
    for spec in specs:
        if spec is None:
            found.append(None)
            continue
        width = spec.shape.num_elements()
        rows = whole[:, start : start + width]
        part = tf.reshape(rows, [tf.shape(whole)[0], *spec.shape])
        part.set_shape([whole.shape[0], *spec.shape])
        found.append(tf.cast(part, spec.dtype))
        start += width
    return found


def _spec(shape: tuple[int, ...] | None, dtype: tf.DType) -> tf.TensorSpec | None:
    return None if shape is None else tf.TensorSpec(shape, dtype)
