"""A loss at the outputs of one batch, as curvature operators use it."""

from __future__ import annotations

from typing import Any, TypeAlias

import tensorflow as tf

from custom_op.losses import targets as targets_module

# A number or a scalar tensor; None for 1 / count.
Scale: TypeAlias = Any


class Evaluation:
    """A loss on one batch, as a mean over examples.

    Every method takes a `scale` that replaces 1 / `count`: scale 1 gives sums, for a mean over
    several batches.

    Attributes:
      outputs: The network's outputs z.
      count: The number of terms in the mean, a scalar of the outputs' dtype.
      examples: The number of examples, likewise.
    """

    def __init__(
        self, loss: Any, outputs: tf.Tensor, targets: tf.Tensor, sound: tf.Tensor | None = None
    ) -> None:
        self._loss = loss
        self._targets = targets
        self._sound = sound
        self.outputs = outputs
        self.examples = self.count = count(outputs, 0, 1)

    def value(self, scale: Scale = None) -> tf.Tensor:
        """Returns the loss, a scalar."""
        return self._rescaled(self._loss.value(self.outputs, self._targets), scale)

    def gradient(self, scale: Scale = None) -> tf.Tensor:
        """Returns the gradient in the outputs."""
        return self._rescaled(self._loss.gradient(self.outputs, self._targets), scale)

    def hessian_product(self, vector: tf.Tensor, scale: Scale = None) -> tf.Tensor:
        """Returns the product of the Hessian in the outputs with a vector of their shape."""
        product = self._loss.hessian_product(self.outputs, self._targets, vector)
        return self._rescaled(product, scale)

    def fisher_product(self, vector: tf.Tensor, scale: Scale = None) -> tf.Tensor:
        """Returns the product of the Hessian's expectation over the model's targets."""
        return self.hessian_product(vector, scale)

    def sampled_gradients(self, seed: int, first: tf.Tensor | int, samples: int) -> tf.Tensor:
        """Returns gradients of terms at drawn targets, [samples, *outputs' shape].

        Args:
          seed: An integer.
          first: The number of the first example: an example's draws depend only on the seed and on
            its number, not on its batch.
          samples: The number of targets to draw for each term.

        Raises:
          TypeError: If the loss is not a `MeanLoss`, which says what a term is.
        """
        raise TypeError(
            f"The sampled Fisher matrix needs a custom_op.losses.MeanLoss, whose sample(outputs, "
            f"seed) draws targets, got {type(self._loss).__name__}."
        )

    def outer_products(
        self, factors: tf.Tensor, vector: tf.Tensor, scale: Scale = None
    ) -> tf.Tensor:
        """Returns Σ wᵢ mean_s(rᵢₛ <rᵢₛ, u>), times the scale, for factors r [samples, ...]."""
        raise NotImplementedError

    def _rescaled(self, mean: tf.Tensor, scale: Scale) -> tf.Tensor:
        if scale is not None:
            mean *= self.count * scale
        return self._only_if_sound(mean)

    def _only_if_sound(self, value: tf.Tensor) -> tf.Tensor:
        """Returns NaN for invalid targets, where no error can be raised."""
        if self._sound is None:
            return value
        return tf.where(self._sound, value, tf.constant(float("nan"), value.dtype))


class TermsEvaluation(Evaluation):
    """A `MeanLoss` on one batch, with weights and a mask."""

    def __init__(
        self,
        loss: Any,
        outputs: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor | None,
        mask: tf.Tensor | None,
    ) -> None:
        self._axes = loss.term_axes(outputs)
        given, targets = targets, loss.prepare(outputs, targets)
        targets, agree = targets_module.shapes_agree(loss, outputs, targets)
        if weights is not None:
            weights = tf.cast(tf.convert_to_tensor(weights), outputs.dtype)
            self._check_prefix(loss, outputs, weights, "weights")
        if mask is not None:
            mask = tf.convert_to_tensor(mask)
            if mask.dtype != tf.bool:
                raise TypeError(
                    f"Expected a boolean mask, got {mask.dtype.name}; numbers go into weights=."
                )
            self._check_prefix(loss, outputs, mask, "a mask")
        targets_module.check_weights(loss, weights, mask)
        in_doubt = not targets_module.are_known(loss, outputs, given, mask)
        mask = _both_there(mask, loss.present(targets))
        if mask is not None:
            # Masked entries must not reach a logarithm or the choice of a class.
            targets = tf.where(_expand(mask, targets.shape.rank), targets, tf.zeros_like(targets))
            outputs = tf.where(_expand(mask, outputs.shape.rank), outputs, tf.zeros_like(outputs))
            present = tf.cast(mask, outputs.dtype)
            weights = _product_of_prefixes(present, weights)
        in_range = None
        if in_doubt:
            targets, in_range = targets_module.in_range(loss, outputs, targets)
        super().__init__(loss, outputs, targets, targets_module.both(agree, in_range))
        self.count = count(outputs, 0, self._axes)
        if mask is not None:
            self.count = tf.reduce_sum(present) * count(outputs, mask.shape.rank, self._axes)
            any_present = tf.reduce_any(mask, axis=list(range(1, mask.shape.rank)))
            self.examples = tf.reduce_sum(tf.cast(any_present, outputs.dtype))
        # 1 / count, times the weights: of the terms' shape, followed by axes of length one.
        self._coefficients = weights
        one = tf.ones([], outputs.dtype)
        self._mean = self._only_if_sound(tf.math.divide_no_nan(one, self.count))

    def value(self, scale: Scale = None) -> tf.Tensor:
        """Returns Σ wᵢ ℓᵢ, times the scale."""
        terms = self._asked("terms")
        if self._coefficients is not None:
            terms *= _expand(self._coefficients, self._axes)
        return tf.reduce_sum(terms) * self._scale(scale)

    def gradient(self, scale: Scale = None) -> tf.Tensor:
        """Returns Σ wᵢ ∂ℓᵢ/∂z, times the scale."""
        return self._weighted(self._asked("term_gradients"), scale)

    def hessian_product(self, vector: tf.Tensor, scale: Scale = None) -> tf.Tensor:
        """Returns Σ wᵢ ∂²ℓᵢ/∂z² u, times the scale, for the vector u."""
        return self._weighted(self._asked("term_hessian_products", vector), scale)

    def fisher_product(self, vector: tf.Tensor, scale: Scale = None) -> tf.Tensor:
        """Returns Σ wᵢ E[∂²ℓᵢ/∂z²] u, times the scale, for the vector u."""
        return self._weighted(self._asked("term_fisher_products", vector), scale)

    def sampled_gradients(self, seed: int, first: tf.Tensor | int, samples: int) -> tf.Tensor:
        """Returns gradients of terms at drawn targets, [samples, *outputs' shape]."""
        outputs = self.outputs
        if outputs.shape.rank == 0:
            raise ValueError("The sampled Fisher matrix needs outputs with an axis of examples.")
        numbers = tf.cast(first, tf.int64) + tf.range(tf.shape(outputs, tf.int64)[0])
        pairs = tf.stack([tf.fill(tf.shape(numbers), tf.constant(seed, tf.int64)), numbers], 1)

        def draw(example: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
            z, y, pair = example
            z, y = (tf.repeat(value[tf.newaxis], samples, 0) for value in (z, y))
            return self._loss.sampled_gradients(z, y, pair)

        def draw_all() -> tf.Tensor:
            spec = tf.TensorSpec([samples, *outputs.shape[1:]], outputs.dtype)
            drawn = tf.map_fn(draw, (outputs, self._targets, pairs), fn_output_signature=spec)
            return tf.einsum("bs...->sb...", drawn)

        # In a graph also when called eagerly: example after example in Python takes long.
        return tf.function(draw_all, autograph=False)() if tf.executing_eagerly() else draw_all()

    def outer_products(
        self, factors: tf.Tensor, vector: tf.Tensor, scale: Scale = None
    ) -> tf.Tensor:
        """Returns Σ wᵢ mean_s(rᵢₛ <rᵢₛ, u>), times the scale, for factors r [samples, ...]."""
        along = factors * vector
        reduced = list(range(1 + self._axes, factors.shape.rank))
        if reduced:
            along = tf.reduce_sum(along, reduced, keepdims=True)
        return self._weighted(tf.reduce_mean(factors * along, 0), scale)

    def _asked(self, method: str, *arguments: tf.Tensor) -> tf.Tensor:
        """Returns what the loss says, which must not have lost digits."""
        result = getattr(self._loss, method)(self.outputs, self._targets, *arguments)
        if result.dtype != self.outputs.dtype:
            raise TypeError(
                f"Expected {type(self._loss).__name__}.{method} to compute in the outputs' dtype, "
                f"{self.outputs.dtype.name}, got {result.dtype.name}; Keras' losses compute in "
                "keras.config.floatx(), TensorFlow's functions in the dtype that they are given."
            )
        return result

    def _scale(self, scale: Scale) -> tf.Tensor:
        if scale is None:
            return self._mean
        return self._only_if_sound(tf.convert_to_tensor(scale, self.outputs.dtype))

    def _weighted(self, like_outputs: tf.Tensor, scale: Scale) -> tf.Tensor:
        factor = self._scale(scale)
        if self._coefficients is not None:
            factor *= _expand(self._coefficients, self.outputs.shape.rank)
        return like_outputs * factor

    def _check_prefix(self, loss: Any, outputs: tf.Tensor, given: tf.Tensor, what: str) -> None:
        expected = outputs.shape[: self._axes]
        rank = given.shape.rank
        fits = rank is not None and 0 < rank <= self._axes
        if not fits or not given.shape.is_compatible_with(expected[:rank]):
            raise ValueError(
                f"{type(loss).__name__} expected {what} of shape {expected}, or of its first axes, "
                f"for outputs of shape {outputs.shape}, got {given.shape}."
            )


def count(tensor: tf.Tensor, start: int, stop: int) -> tf.Tensor:
    """Returns the number of entries along some axes, of the tensor's dtype."""
    shape = tensor.shape[start:stop]
    if shape.is_fully_defined():
        return tf.constant(shape.num_elements(), tensor.dtype)
    return tf.cast(tf.reduce_prod(tf.shape(tensor)[start:stop]), tensor.dtype)


def _expand(prefix: tf.Tensor, rank: int) -> tf.Tensor:
    """Appends axes of length one."""
    for _ in range(rank - prefix.shape.rank):
        prefix = prefix[..., tf.newaxis]
    return prefix


def _both_there(mask: tf.Tensor | None, present: tf.Tensor | None) -> tf.Tensor | None:
    """Returns where both hold, None meaning everywhere; the first has fewer axes."""
    if mask is None or present is None:
        return present if mask is None else mask
    return _expand(mask, present.shape.rank) & present


def _product_of_prefixes(a: tf.Tensor, b: tf.Tensor | None) -> tf.Tensor:
    if b is None:
        return a
    rank = max(a.shape.rank, b.shape.rank)
    # Not a product: a masked weight may be NaN.
    a, b = _expand(a, rank), _expand(b, rank)
    return tf.where(a > 0, b, tf.zeros_like(b))
