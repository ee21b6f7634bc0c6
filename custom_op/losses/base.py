"""The interface of losses: convex functions of a network's outputs, means over a batch.

Its Hessian in the outputs z is written in closed form, so that Gauss-Newton products cost no
derivative of the loss (Schraudolph 2002; Martens 2010). Outputs are float32 or float64: the
factors p(1 - p)/B of a Hessian underflow in float16 and lose most of their digits in bfloat16.
"""

from __future__ import annotations

import abc

import tensorflow as tf

from custom_op.losses import targets as targets_module
from custom_op.losses.evaluation import Evaluation, TermsEvaluation
from custom_op.losses.targets import Bounds


class Loss(abc.ABC):
    """A convex loss of a network's outputs, whose first axis counts examples.

    It is the mean over the examples of a batch. `MeanLoss` is easier to derive from, and supports
    weights and masks.
    """

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
          targets: The targets that they are compared with.

        Raises:
          ValueError: If the targets' shape does not fit the outputs'.
          TypeError: If the outputs are neither float32 nor float64.
        """
        check_precision(outputs)
        if outputs.shape.rank is None:
            raise ValueError(
                f"{type(self).__name__} expected outputs whose number of axes is known, got "
                f"{outputs.shape}; say it with tf.ensure_shape."
            )
        if not outputs.shape.is_compatible_with(targets.shape):
            raise ValueError(
                f"{type(self).__name__} expected targets of the outputs' shape {outputs.shape}, "
                f"got {targets.shape}{_advice(outputs, targets)}."
            )

    def target_axes(self, outputs: tf.Tensor, targets: tf.Tensor) -> int | None:
        """Returns the number of the outputs' first axes that the targets share; by default all.

        Shapes that are known only when a graph runs are compared there.

        Args:
          outputs: The network's outputs, for their shape.
          targets: The targets, for their dtype.

        Returns:
          The number; None if targets have another shape, which an overridden `check` may allow.
        """
        del targets
        return outputs.shape.rank if type(self).check is Loss.check else None

    def evaluate(
        self,
        outputs: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> Evaluation:
        """Returns the loss at a network's outputs, for curvature operators.

        Args:
          outputs: The network's outputs.
          targets: The targets that they are compared with.
          weights: The weights of the examples; only for a `MeanLoss`.
          mask: The examples that count, as booleans; only for a `MeanLoss`.

        Returns:
          An object with the value, gradient and Hessian products, and the number of examples.

        Raises:
          ValueError: If targets, weights or mask do not fit the outputs, or are not supported.
          TypeError: If the outputs are neither float32 nor float64, or the mask is not boolean.
        """
        outputs, targets = tf.convert_to_tensor(outputs), tf.convert_to_tensor(targets)
        self.check(outputs, targets)
        if weights is not None or mask is not None:
            raise ValueError(
                f"{type(self).__name__} takes no weights and no mask; derive it from "
                "custom_op.losses.MeanLoss, which does."
            )
        targets, agree = targets_module.shapes_agree(self, outputs, targets)
        return Evaluation(self, outputs, targets, agree)


class MeanLoss(Loss):
    """A loss that is a mean of terms, each a function of its own outputs.

    A term belongs to one target: a row of logits under a softmax, an element under a sigmoid.
    A subclass defines the terms (`term_axes`), their values, gradients and Hessian products; this
    class forms means from them, with weights and masks. With weights wᵢ, the loss is

        Σ wᵢ ℓᵢ / N,    i over the N terms that the mask selects,

    as Keras' `sum_over_batch_size`: weights scale the loss and its curvature (divide them by their
    mean for a weighted mean), while masked terms are left out, also of N. A batch that is masked
    entirely has the value 0.

    Weights and masks have the shape of the terms, or of their first axes: [B] for one number per
    example. Masked entries, such as a target of -1 or a NaN, have no effect.
    """

    @abc.abstractmethod
    def terms(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the terms ℓᵢ, of the shape of the outputs' first `term_axes` axes."""

    @abc.abstractmethod
    def term_gradients(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns the gradient of Σ ℓᵢ in the outputs, of their shape."""

    @abc.abstractmethod
    def term_hessian_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns the product of the Hessian of Σ ℓᵢ with a vector of the outputs' shape."""

    def prepare(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Returns targets in the form that the other methods expect; by default unchanged.

        Args:
          outputs: The outputs z, for their shape and dtype.
          targets: The targets as given, after `check`.

        Returns:
          The targets.
        """
        del outputs
        return targets

    def present(self, targets: tf.Tensor) -> tf.Tensor | None:
        """Returns the terms that the targets themselves leave in, as booleans; None for all."""
        del targets
        return None

    def target_bounds(self, outputs: tf.Tensor, targets: tf.Tensor) -> Bounds | None:
        """Returns the bounds of targets; None, the default, if any finite number is allowed.

        Targets out of bounds raise an error if their values are known; otherwise, as under XLA,
        they make the value, the gradient and all products NaN. Zero must lie within the bounds: it
        replaces masked targets.

        Args:
          outputs: The outputs z, for their shape.
          targets: Prepared targets, for their dtype.

        Returns:
          The bounds.
        """
        del outputs, targets
        return None

    def term_axes(self, outputs: tf.Tensor) -> int:
        """Returns the number of the outputs' first axes that count terms; by default all."""
        return outputs.shape.rank

    def term_fisher_products(
        self, outputs: tf.Tensor, targets: tf.Tensor, vector: tf.Tensor
    ) -> tf.Tensor:
        """Returns the product with the expected Hessian of Σ ℓᵢ over targets drawn from the model.

        By default that is the Hessian, which is right if z are the natural parameters of an
        exponential family, so that the Hessian does not depend on the targets. Override it if it
        does.

        Args:
          outputs: The outputs z.
          targets: Prepared targets.
          vector: A vector of the outputs' shape.

        Returns:
          A tensor of the outputs' shape.
        """
        return self.term_hessian_products(outputs, targets, vector)

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws targets y from the model p(y|z) ∝ exp(-ℓ(z, y)), for the sampled Fisher matrix.

        Args:
          outputs: The outputs z of any number of examples.
          seed: Two integers, as for `tf.random.stateless_*`.

        Returns:
          Targets that the loss takes.

        Raises:
          NotImplementedError: If the loss defines no such model.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how its targets are drawn; define its method "
            "sample(outputs, seed)."
        )

    def sampled_gradients(
        self, outputs: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns r = ∂Σℓᵢ/∂z at drawn targets: E[r rᵀ] in a term is its Hessian.

        Args:
          outputs: The outputs z.
          targets: The true targets; only read if the loss's Hessian depends on them.
          seed: Two integers.

        Returns:
          A tensor of the outputs' shape.
        """
        del targets
        # Drawn targets are data: derivatives do not pass the draw.
        return self.term_gradients(outputs, self.sample(tf.stop_gradient(outputs), seed))

    def value(
        self,
        outputs: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns Σ wᵢ ℓᵢ / N, a scalar."""
        return self.evaluate(outputs, targets, weights, mask).value()

    def gradient(
        self,
        outputs: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the gradient of the mean in the outputs, of their shape."""
        return self.evaluate(outputs, targets, weights, mask).gradient()

    def hessian_product(
        self,
        outputs: tf.Tensor,
        targets: tf.Tensor,
        vector: tf.Tensor,
        weights: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the product of the mean's Hessian in the outputs with a vector."""
        return self.evaluate(outputs, targets, weights, mask).hessian_product(vector)

    def evaluate(
        self,
        outputs: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> Evaluation:
        """Returns the loss at a network's outputs, for curvature operators."""
        outputs, targets = tf.convert_to_tensor(outputs), tf.convert_to_tensor(targets)
        self.check(outputs, targets)
        return TermsEvaluation(self, outputs, targets, weights, mask)


def check_precision(outputs: tf.Tensor) -> None:
    """Checks that outputs have the precision that a loss and its Hessian need.

    Args:
      outputs: The network's outputs.

    Raises:
      TypeError: If they are neither float32 nor float64.
    """
    if outputs.dtype not in (tf.float32, tf.float64):
        raise TypeError(
            f"Expected outputs of float32 or float64, got {outputs.dtype.name}: the loss and its "
            "Hessian lose their digits there. End the network with tf.cast(outputs, tf.float32)."
        )


def _advice(outputs: tf.Tensor, targets: tf.Tensor) -> str:
    """Returns advice for targets with an axis of length one too few or too many."""
    if targets.shape.rank is None:
        return ""
    if outputs.shape[-1:] == [1] and outputs.shape[:-1].is_compatible_with(targets.shape):
        return "; add the axis with targets[..., tf.newaxis]"
    if targets.shape[-1:] == [1] and targets.shape[:-1].is_compatible_with(outputs.shape):
        return "; take the last axis away with tf.squeeze(targets, -1)"
    return ""
