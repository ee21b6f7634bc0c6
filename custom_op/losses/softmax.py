from __future__ import annotations

import numbers

import tensorflow as tf

from custom_op.losses.base import MeanLoss, check_precision
from custom_op.losses.targets import ROUNDING, Bounds


class SoftmaxCrossEntropy(MeanLoss):
    """-log softmax(z)[y], the mean over rows of z [..., K].

    Targets are classes from 0 to K - 1, of any integer dtype or bool and of the shape of z without
    its last axis (or with one of length 1 in its place, as Keras takes them); or probabilities of
    z's shape, which need not sum to 1 and in which the value, the gradient and the Hessian product
    are differentiable too (TensorFlow's fused loss has the derivative 0 there).

    Rows whose class is `ignore_index` are left out: like masked rows they count neither in sums nor
    in the number of rows that the mean divides by (as in PyTorch, except that a batch in which all
    rows are ignored has the loss and derivatives 0).
    """

    ignore_index: int | None = None

    def __init__(self, ignore_index: int | None = None) -> None:
        """Makes the loss.

        Args:
          ignore_index: A label that stands for no class, such as -1 or 255; None if there is none.

        Raises:
          TypeError: If it is not an integer.
        """
        whole = isinstance(ignore_index, numbers.Integral) and not isinstance(ignore_index, bool)
        if ignore_index is not None and not whole:
            raise TypeError(f"Expected ignore_index= to be an integer, got {ignore_index!r}.")
        self.ignore_index = None if ignore_index is None else int(ignore_index)

    def __eq__(self, other: object) -> bool:
        # So that a loss made for each batch does not recompile the step.
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.ignore_index))

    def check(self, outputs: tf.Tensor, targets: tf.Tensor) -> None:
        """Checks shapes and dtypes, with classes as targets too."""
        check_precision(outputs)
        if not outputs.shape.rank:
            raise ValueError(
                f"SoftmaxCrossEntropy expected outputs of shape [..., K], got {outputs.shape}."
            )
        rows = outputs.shape[:-1]
        fits = rows.is_compatible_with(targets.shape) or _has_axis_too_many(outputs, targets)
        if _are_classes(outputs, targets):
            if not fits:
                raise ValueError(
                    f"SoftmaxCrossEntropy expected integer targets of shape {rows} for outputs of "
                    f"shape {outputs.shape}, got {targets.shape}; probabilities have to be "
                    "floating: tf.cast(targets, tf.float32)."
                )
        elif fits and not outputs.shape.is_compatible_with(targets.shape):
            raise ValueError(
                f"SoftmaxCrossEntropy expected floating targets of the outputs' shape "
                f"{outputs.shape}, got {targets.shape}; classes have to be integers: "
                "tf.cast(targets, tf.int32)."
            )
        else:
            super().check(outputs, targets)

    def prepare(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns classes as int32 or int64 of the rows' shape, probabilities in z's dtype."""
        if not _are_classes(outputs, targets):
            return tf.cast(targets, outputs.dtype) if targets.dtype == tf.bool else targets
        if _has_axis_too_many(outputs, targets):
            targets = tf.squeeze(targets, -1)
        wide = targets.dtype in (tf.int64, tf.uint32, tf.uint64)
        return tf.cast(targets, tf.int64 if wide else tf.int32)

    def present(self, targets: tf.Tensor) -> tf.Tensor | None:
        """Returns the rows that are not ignored, as booleans; None for all."""
        if self.ignore_index is None or not targets.dtype.is_integer:
            return None
        return targets != tf.constant(self.ignore_index, targets.dtype)

    def target_bounds(self, outputs: tf.Tensor, targets: tf.Tensor) -> Bounds | None:
        """Returns 0 and K - 1 for classes, 0 and infinity for probabilities."""
        if not targets.dtype.is_integer:
            return Bounds(
                -ROUNDING,
                targets.dtype.max,
                "probabilities of at least 0 as floating targets",
                "give the classes themselves, or what a softmax made of the scores",
            )
        count = outputs.shape[-1]
        if count is None:
            return None
        also = "" if self.ignore_index is None else f" or ignore_index={self.ignore_index}"
        return Bounds(
            0,
            count - 1,
            f"labels from 0 to {count - 1} (the classes of {count} logits){also}",
            "give the network an output for each class and count classes from 0, or name the label "
            "that stands for no class: SoftmaxCrossEntropy(ignore_index=...)",
        )

    def target_axes(self, outputs: tf.Tensor, targets: tf.Tensor) -> int:
        """Returns all axes for probabilities, all but the last for classes."""
        return outputs.shape.rank - int(targets.dtype.is_integer)

    def term_axes(self, outputs: tf.Tensor) -> int:
        """Returns all axes but the last: a term is a row."""
        return outputs.shape.rank - 1

    def terms(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns -Σ y log softmax(z), for each row."""
        log_probabilities = tf.nn.log_softmax(outputs)
        if targets.dtype.is_integer:
            return -tf.gather(
                log_probabilities, targets, axis=-1, batch_dims=outputs.shape.rank - 1
            )
        return -tf.reduce_sum(tf.cast(targets, outputs.dtype) * log_probabilities, -1)

    def term_gradients(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns m s - y, with s = softmax(z) and m = Σ y."""
        if targets.dtype.is_integer:
            targets = tf.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
            return tf.nn.softmax(outputs) - targets
        targets = tf.cast(targets, outputs.dtype)
        return _mass(outputs, targets) * tf.nn.softmax(outputs) - targets

    def term_hessian_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns m (s ⊙ u - s <s, u>), for the vector u."""
        probabilities = tf.nn.softmax(outputs)
        weighted = probabilities * vector
        product = weighted - probabilities * tf.reduce_sum(weighted, -1, keepdims=True)
        if not targets.dtype.is_integer:
            product *= _mass(outputs, targets)
        return product

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws classes with the probabilities softmax(z)."""
        rows = tf.reshape(outputs, [-1, outputs.shape[-1]])
        drawn = tf.random.stateless_categorical(rows, 1, seed, dtype=tf.int32)
        return tf.reshape(drawn, tf.shape(outputs)[:-1])

    def sampled_gradients(
        self, outputs: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns √m (s - one_hot(y)): a row of mass m counts as m rows."""
        gradients = super().sampled_gradients(outputs, targets, seed)
        if not targets.dtype.is_integer:
            gradients *= tf.sqrt(_mass(outputs, targets))
        return gradients


def _are_classes(outputs: tf.Tensor, targets: tf.Tensor) -> bool:
    """Whether targets are classes: integers, or booleans that are not probabilities."""
    if targets.dtype == tf.bool:
        return not outputs.shape.is_compatible_with(targets.shape)
    return targets.dtype.is_integer


def _has_axis_too_many(outputs: tf.Tensor, targets: tf.Tensor) -> bool:
    """Whether targets have the rows' shape and an additional last axis of length 1."""
    shape = targets.shape
    if shape.rank is None or shape.rank != outputs.shape.rank or shape[-1] != 1:
        return False
    return outputs.shape[:-1].is_compatible_with(shape[:-1])


def _mass(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(targets, outputs.dtype), -1, keepdims=True)
