"""The losses of `compile` as this package's: in closed form where it has one, else automatic."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

import custom_op
from custom_op.losses import MeanLoss, activations, keras_names
from custom_op.losses.base import check_precision
from mlhf.checks.structures import kind
from mlhf.models import natural_outputs

_OWN_NAMES = {
    "softmax_cross_entropy": "keras.losses.SparseCategoricalCrossentropy(from_logits=True)",
    "sigmoid_cross_entropy": "keras.losses.BinaryCrossentropy(from_logits=True)",
    "squared_error": "keras.losses.MeanSquaredError()",
}


class Compared(NamedTuple):
    """How a loss compares a model's output with its targets."""

    loss: custom_op.losses.Loss
    activation: str | None  # the activation that the loss applies itself
    is_activated: bool  # whether outputs, as the user's loss compares them, have passed it
    by_weights: bool  # whether the mean divides by the sum of the weights


def resolve(loss: Any) -> Compared:
    """Returns a loss as steps take it.

    Args:
      loss: A name, function or object of `keras.losses`, or a function of targets and outputs, or
        an object of a class derived from `keras.losses.Loss`, that returns a value per example.

    Returns:
      The loss: in closed form for cross entropies and squared errors, otherwise with an automatic
      Hessian.

    Raises:
      ValueError: If the name is unknown, or the loss sums over a batch.
      TypeError: If it is no loss.
    """
    import keras

    if isinstance(loss, str):
        loss = _named(loss)
    if isinstance(loss, custom_op.losses.Loss) or isinstance(loss, type) or not callable(loss):
        raise TypeError(
            "Expected a loss as model.compile takes it, a name, a function of targets and outputs "
            f"or an object of keras.losses, got {kind(loss)}."
        )
    by_weights = getattr(loss, "reduction", None) == "mean_with_sample_weight"
    if keras_names.is_known(loss):
        own, given = natural_outputs.resolve(loss)
        return Compared(own, activations.activation_of(own), given is not None, by_weights)
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    if isinstance(loss, keras.losses.Loss) and reduction not in keras_names.REDUCTIONS:
        raise ValueError(
            f"Expected a loss with the reduction 'sum_over_batch_size', got {reduction!r}: a step "
            "is taken on the mean loss, whatever the batch's size. Multiply the learning rate "
            "where a sum was meant."
        )
    return Compared(AutomaticLoss(loss), None, False, by_weights)


def _named(name: str) -> Any:
    import keras

    if name in _OWN_NAMES and not hasattr(keras.losses, name):
        raise ValueError(
            f"Expected a loss as model.compile takes it, got {name!r}, a name of custom_op.losses: "
            f"evaluate needs Keras' own, {_OWN_NAMES[name]}."
        )
    try:
        return keras.losses.get(name)
    except ValueError:
        raise ValueError(
            f"Expected a loss as model.compile takes it, got {name!r}, which keras.losses does not "
            "have."
        ) from None


def crossentropy_for(targets: Any, outputs: Any) -> str:
    """Returns the loss that Keras takes for the name `"crossentropy"`, by the shapes.

    Args:
      targets: The targets of an output.
      outputs: The output.
    """
    if outputs.shape[-1] == 1:
        return "binary_crossentropy"
    is_column = targets.shape.rank == outputs.shape.rank and targets.shape[-1] == 1
    if targets.shape.rank < outputs.shape.rank or is_column:
        return "sparse_categorical_crossentropy"
    return "categorical_crossentropy"


class AutomaticLoss(MeanLoss):
    """A loss that is known by its values alone: TensorFlow differentiates it twice.

    Its Hessian is as it is: positive semidefinite for a convex loss (Huber, log-cosh, the
    Kullback-Leibler divergence from probabilities), zero where the loss is linear.
    """

    def __init__(self, loss: Any) -> None:
        """Makes the loss.

        Args:
          loss: A `keras.losses.Loss`, or a function of targets and outputs; it returns a value for
            each example, of the shape of the outputs' first axes.
        """
        self._loss = loss
        self._axes: int | None = None

    def _values(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        import keras

        compare = self._loss.call if isinstance(self._loss, keras.losses.Loss) else self._loss
        # As keras.losses.Loss hands them on.
        values = compare(tf.cast(targets, outputs.dtype), outputs)
        return tf.cast(tf.convert_to_tensor(values), outputs.dtype)

    def check(self, outputs: tf.Tensor, targets: tf.Tensor) -> None:
        """Checks the outputs' dtype, and that there is a value for each example."""
        check_precision(outputs)
        values = self._values(outputs, targets)
        rank = values.shape.rank
        if not rank or not outputs.shape[:rank].is_compatible_with(values.shape):
            raise ValueError(
                f"Expected a loss with a value for each example, of the shape {outputs.shape[:1]} "
                f"or of more of the axes of the outputs {outputs.shape}, got {self.title} with "
                f"values of the shape {values.shape}: leave its mean out (keras.losses take it "
                "over the last axis only)."
            )
        self._axes = rank

    @property
    def title(self) -> str:
        """The loss's name in messages."""
        return str(getattr(self._loss, "name", getattr(self._loss, "__name__", self._loss)))

    def term_axes(self, outputs: tf.Tensor) -> int:
        """Returns the number of axes of the values."""
        return (outputs.shape.rank or 2) - 1 if self._axes is None else self._axes

    def terms(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the values, one for each example."""
        return self._values(outputs, targets)

    def term_gradients(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of their sum."""
        return self._gradient(outputs, targets)

    def term_hessian_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns the derivative of <gradient, u>, which is H u."""
        outputs = tf.identity(outputs)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            along = tf.reduce_sum(self._gradient(outputs, targets) * tf.stop_gradient(vector))
        return _or_zeros(tape.gradient(along, outputs), outputs)

    def _gradient(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        outputs = tf.identity(outputs)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            total = tf.reduce_sum(self._values(outputs, targets))
        return _or_zeros(tape.gradient(total, outputs), outputs)

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Refuses: nothing says how targets are distributed.

        Raises:
          NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"the loss {self.title} does not say how targets are distributed. Give a cross entropy "
            "or a squared error, or another optimizer, such as mlhf.HessianFree"
        )


def _or_zeros(gradient: tf.Tensor | None, outputs: tf.Tensor) -> tf.Tensor:
    return tf.zeros_like(outputs) if gradient is None else gradient
