"""Losses: the value, its gradient and its Hessian's products in the network's outputs.

A loss is the mean over the examples of a batch. Outputs z have the shape [..., K] (softmax) or
any shape (the others), the first axis counting examples; B is the number of rows or of examples
as each class says. Its Hessian in z is written in closed form, so that Gauss-Newton products cost
no derivative of the loss (Schraudolph 2002; Martens 2010). Outputs are float32 or float64: the
factors p(1 - p)/B of a Hessian underflow in float16 and lose most of their digits in bfloat16.
"""

from __future__ import annotations

import abc

import tensorflow as tf


class Loss(abc.ABC):
    """A convex loss of a network's outputs."""

    @abc.abstractmethod
    def value(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the mean loss, a scalar."""

    @abc.abstractmethod
    def gradient(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the gradient in the outputs, of their shape."""

    @abc.abstractmethod
    def hessian_product(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns the product of the Hessian in the outputs with a vector of their shape."""

    def check(self, outputs: tf.Tensor, targets: tf.Tensor) -> None:
        """Checks that outputs and targets fit together.

        Args:
          outputs: The network's outputs.
          targets: What they are compared with.

        Raises:
          ValueError: If the targets' shape does not fit the outputs'.
          TypeError: If the outputs are neither float32 nor float64.
        """
        _check_precision(outputs)
        if not outputs.shape.is_compatible_with(targets.shape):
            raise ValueError(
                f"{type(self).__name__} expected targets of the outputs' shape {outputs.shape}, "
                f"got {targets.shape}."
            )


class SoftmaxCrossEntropy(Loss):
    """-log softmax(z)[y], the mean over rows of z.

    Targets are integer classes, of the shape of z without its last axis, or probabilities of z's
    shape, which need not sum to 1 and in which the value is differentiable too.
    """

    def check(self, outputs, targets):
        """Checks shapes and dtypes, with integer classes as targets too."""
        _check_precision(outputs)
        if not outputs.shape.rank:
            raise ValueError(
                f"SoftmaxCrossEntropy expected outputs of shape [..., K], got {outputs.shape}."
            )
        if targets.dtype.is_integer:
            if not outputs.shape[:-1].is_compatible_with(targets.shape):
                raise ValueError(
                    f"SoftmaxCrossEntropy expected integer targets of shape {outputs.shape[:-1]} "
                    f"for outputs of shape {outputs.shape}, got {targets.shape}; probabilities "
                    "have to be floating."
                )
        else:
            super().check(outputs, targets)

    def value(self, outputs, targets):
        """Returns -Σ y log softmax(z), the mean over rows."""
        log_probabilities = tf.nn.log_softmax(outputs)
        if targets.dtype.is_integer:
            chosen = tf.gather(
                log_probabilities, targets, axis=-1, batch_dims=outputs.shape.rank - 1
            )
        else:
            chosen = tf.reduce_sum(tf.cast(targets, outputs.dtype) * log_probabilities, -1)
        return -tf.reduce_mean(chosen)

    def gradient(self, outputs, targets):
        """Returns (m s - y)/B, with s = softmax(z) and m = Σ y."""
        if targets.dtype.is_integer:
            targets = tf.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
            mass = 1
        else:
            targets = tf.cast(targets, outputs.dtype)
            mass = tf.reduce_sum(targets, -1, keepdims=True)
        return (mass * tf.nn.softmax(outputs) - targets) / _rows(outputs)

    def hessian_product(self, outputs, targets, vector):
        """Returns m (s ⊙ u - s <s, u>)/B, for the vector u."""
        probabilities = tf.nn.softmax(outputs)
        weighted = probabilities * vector
        product = weighted - probabilities * tf.reduce_sum(weighted, -1, keepdims=True)
        if not targets.dtype.is_integer:
            product *= tf.reduce_sum(tf.cast(targets, outputs.dtype), -1, keepdims=True)
        return product / _rows(outputs)


class SigmoidCrossEntropy(Loss):
    """-y log σ(z) - (1-y) log(1-σ(z)), the mean over all elements; targets of z's shape."""

    def value(self, outputs, targets):
        """Returns log(1 + eᶻ) - y z, the mean over all elements."""
        targets = tf.cast(targets, outputs.dtype)
        return tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=outputs)
        )

    def gradient(self, outputs, targets):
        """Returns (σ(z) - y)/N."""
        targets = tf.cast(targets, outputs.dtype)
        return (tf.sigmoid(outputs) - targets) / _size(outputs)

    def hessian_product(self, outputs, targets, vector):
        """Returns σ(z) (1 - σ(z)) u/N, for the vector u."""
        del targets
        probabilities = tf.sigmoid(outputs)
        return probabilities * (1 - probabilities) * vector / _size(outputs)


class SquaredError(Loss):
    """½‖z - y‖²/B, with B the number of examples; its Hessian is I/B. The original's."""

    def value(self, outputs, targets):
        """Returns ½‖z - y‖²/B."""
        residual = outputs - tf.cast(targets, outputs.dtype)
        return 0.5 * tf.reduce_sum(tf.square(residual)) / _examples(outputs)

    def gradient(self, outputs, targets):
        """Returns (z - y)/B."""
        return (outputs - tf.cast(targets, outputs.dtype)) / _examples(outputs)

    def hessian_product(self, outputs, targets, vector):
        """Returns u/B, for the vector u."""
        del targets
        return vector / _examples(outputs)


class MeanSquaredError(Loss):
    """(z - y)², the mean over all N elements, as in Keras; its Hessian is 2I/N."""

    def value(self, outputs, targets):
        """Returns ‖z - y‖²/N."""
        return tf.reduce_mean(tf.square(outputs - tf.cast(targets, outputs.dtype)))

    def gradient(self, outputs, targets):
        """Returns 2 (z - y)/N."""
        return 2 * (outputs - tf.cast(targets, outputs.dtype)) / _size(outputs)

    def hessian_product(self, outputs, targets, vector):
        """Returns 2u/N, for the vector u."""
        del targets
        return 2 * vector / _size(outputs)


_LOSSES: dict[str, Loss] = {}


def register_loss(name: str, loss: Loss) -> None:
    """Makes a loss known by a name.

    Args:
      name: The name that `get` and every argument `loss=` then take.
      loss: The loss.

    Raises:
      ValueError: If the name is taken.
      TypeError: If it is not a `Loss`.
    """
    if name in _LOSSES:
        raise ValueError(f"There is a loss named {name!r} already; choose another name.")
    if not isinstance(loss, Loss):
        raise TypeError(f"Expected an instance of custom_op.losses.Loss, got {loss!r}.")
    _LOSSES[name] = loss


def get(loss: str | Loss) -> Loss:
    """Returns a loss by its name, or the loss itself.

    Args:
      loss: A name, such as `"softmax_cross_entropy"`, or a `Loss`.

    Returns:
      The loss.

    Raises:
      ValueError: If nothing has that name.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str) or loss not in _LOSSES:
        raise ValueError(
            f"Expected a loss, one of {sorted(_LOSSES)} or a custom_op.losses.Loss, got {loss!r}; "
            "register another with custom_op.losses.register_loss."
        )
    return _LOSSES[loss]


def _check_precision(outputs: tf.Tensor) -> None:
    if outputs.dtype not in (tf.float32, tf.float64):
        raise TypeError(
            f"Expected outputs of float32 or float64, got {outputs.dtype.name}: the loss and its "
            "Hessian lose their digits there. End the network with tf.cast(outputs, tf.float32)."
        )


def _count(tensor: tf.Tensor, axes: slice) -> tf.Tensor:
    shape = tensor.shape[axes]
    if shape.is_fully_defined():
        return tf.constant(shape.num_elements(), tensor.dtype)
    return tf.cast(tf.reduce_prod(tf.shape(tensor)[axes]), tensor.dtype)


def _rows(outputs: tf.Tensor) -> tf.Tensor:
    return _count(outputs, slice(None, -1))


def _size(outputs: tf.Tensor) -> tf.Tensor:
    return _count(outputs, slice(None))


def _examples(outputs: tf.Tensor) -> tf.Tensor:
    return _count(outputs, slice(0, 1))


register_loss("softmax_cross_entropy", SoftmaxCrossEntropy())
register_loss("sigmoid_cross_entropy", SigmoidCrossEntropy())
register_loss("squared_error", SquaredError())
register_loss("mean_squared_error", MeanSquaredError())
