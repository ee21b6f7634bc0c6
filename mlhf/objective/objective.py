"""An objective: the mean loss of a network on a batch, and a regularizer of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

import custom_op
from custom_op.losses import activations
from mlhf.checks import networks, targets
from mlhf.checks.arguments import check_choice
from mlhf.models import keras_models, natural_outputs
from mlhf.objective.counted import Counted, both_masks
from mlhf.objective.regularizers import Regularizer
from mlhf.objective.shares import Mean, OfBatch, Share
from mlhf.objective.vectors import add, in_dtype_of, inner

Structure = Any


class Term(NamedTuple):
    """A term of an objective's weighted sum; an objective that is no sum is one term."""

    name: str  # "" if there is only one
    weight: Any  # a number or a scalar tensor
    objective: Objective


class Objective:
    """The mean loss of a network on one batch, plus a regularizer.

    The network, the loss and the regularizer are static: a step is compiled for them once, and a
    new batch of the same shapes does not trace again. Make the network once, outside the loop.

    To TensorFlow an objective is a structure of its tensors: a `tf.function` takes it as an
    argument, and traces again when a static part or a shape changes.
    """

    def __init__(
        self,
        network: Any,
        loss: str | custom_op.losses.Loss,
        inputs: Any,
        targets: Any,
        model_state: Structure = None,
        regularizer: Regularizer | None = None,
        ignore_overrides: bool = False,
        weights: Any = None,
        unconnected: str = "error",
        mask: Any = None,
    ) -> None:
        """Describes an objective.

        Args:
          network: A function `(parameters, inputs) -> outputs`; with a `model_state`, a function
            `(parameters, model_state, inputs) -> (outputs, new model_state)`; or a built Keras
            model, whose parameters are those of `mlhf.get_parameters`. A model is called as `fit`
            calls it, in training mode; a softmax, sigmoid or exponential at its end that the loss
            applies itself is taken off.
          loss: A loss of `custom_op.losses` or its name; also a name, function or object of
            `keras.losses`, such as `"sparse_categorical_crossentropy"` for a model that ends in a
            softmax. (`"poisson"` is this package's, of log rates.)
          inputs: A structure of tensors, the first axis counting examples.
          targets: The targets that the loss compares the outputs with.
          model_state: The state that the network has besides parameters (moving statistics, seeds).
            For a Keras model it defaults to its non-trainable variables' values.
          regularizer: A regularizer such as `mlhf.L2(2e-4)`. The value, the gradient and the
            curvature contain it.
          ignore_overrides: Whether a Keras model may override `train_step` or `compute_loss`, which
            an objective does not run; for use inside such a `train_step`.
          weights: The weights of the examples, [B], or of the loss's terms, for a loss of
            `custom_op.losses.MeanLoss`, which says what the mean is; None for ones.
          unconnected: The treatment of a parameter that the outputs do not depend on: `"error"`, or
            `"zero"`, as an equation's residual has none of the last bias.
          mask: The examples or terms that count, as booleans of the shapes that weights may have;
            those that do not are left out, also of the number that the mean divides by. None, the
            default, for all, or for those that a Keras model's own mask leaves in
            (`Embedding(mask_zero=True)`, `Masking`): those count where both masks say so.

        Raises:
          ValueError: If the loss or `unconnected` is unknown, or the Keras model is not built or
            asks for something that would be left out (float16, quantization, a `train_step` of its
            own).
          TypeError: If the network is not callable, or inputs or targets do not make dense tensors.
        """
        networks.check_network(network)
        if keras_models.is_model(network):
            self.loss, activation = natural_outputs.resolve(loss)
            if model_state is None:
                model_state = keras_models.get_model_state(network)
            # The function that stands for the model does not keep it alive.
            self._model = network
            mask = both_masks(mask, keras_models.mask_of_outputs(network, model_state, inputs))
            network = keras_models.as_network(
                network, self.loss, activation is not None, ignore_overrides, mask is not None
            )
        else:
            self.loss = custom_op.losses.get(loss)
        self.network: Callable[..., Any] = network
        networks.check_regularizer(regularizer)
        self.regularizer = regularizer
        self.inputs = networks.as_tensors("inputs", inputs)
        self.targets = networks.as_tensor("targets", targets)
        # A network without a state has the empty structure, which loops can carry too.
        self.model_state = tf.nest.map_structure(
            lambda leaf: networks.as_tensor("a model_state", leaf),
            () if model_state is None else model_state,
        )
        # Weights that are missing are the empty structure too.
        self.weights = () if weights is None else networks.as_tensor("weights", weights)
        self.mask = () if mask is None else networks.as_mask(mask)
        self.unconnected = check_choice("unconnected", unconnected, ("error", "zero"))

    @property
    def static(self) -> tuple[Any, ...]:
        """What a compiled step depends on besides shapes; the class of the objective is last."""
        return self.network, self.loss, self.regularizer, self.unconnected, type(self)

    @property
    def tensors(self) -> tuple[Any, ...]:
        """What changes from batch to batch: inputs, targets, model state, weights and mask."""
        counted = Counted(self.weights, self.mask) if tf.is_tensor(self.mask) else self.weights
        return self.inputs, self.targets, self.model_state, counted

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of a weighted sum (`mlhf.ObjectiveSum`); otherwise the objective itself."""
        return (Term("", 1.0, self),)

    def __tf_flatten__(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Returns the static part, and the tensors."""
        return self.static, self.tensors

    @classmethod
    def __tf_unflatten__(cls, static: tuple[Any, ...], tensors: tuple[Any, ...]) -> Objective:
        """Returns the objective that `__tf_flatten__` took apart."""
        # The constructor would replace an empty state by a Keras model's own.
        objective: Objective = static[-1].__new__(static[-1])
        objective._restore(static, tensors)
        return objective

    def _restore(self, static: tuple[Any, ...], tensors: tuple[Any, ...]) -> None:
        self.network, self.loss, self.regularizer, self.unconnected, _ = static
        self._set_tensors(tensors)

    def _set_tensors(self, tensors: tuple[Any, ...]) -> None:
        self.inputs, self.targets, self.model_state, counted = tensors
        self.weights, self.mask = counted if isinstance(counted, Counted) else (counted, ())

    @classmethod
    def of_static(
        cls, static: tuple[Any, ...], inputs: Any, targets: Any, model_state: Structure
    ) -> Objective:
        """Returns the objective with a `static` part on a batch of tensors without weights."""
        return cls.__tf_unflatten__(static, (inputs, targets, model_state, ()))

    def on(self, inputs: Any, targets: Any, model_state: Structure, weights: Any = ()) -> Objective:
        """Returns the objective on another batch of tensors, in another model state.

        Args:
          inputs: The inputs.
          targets: The targets.
          model_state: The model state.
          weights: The last of `tensors`: weights, perhaps with a mask; `()` for neither.
        """
        return self.__tf_unflatten__(self.static, (inputs, targets, model_state, weights))

    def outputs(self, parameters: Structure) -> tuple[tf.Tensor, Structure]:
        """Returns the network's outputs and the new model state.

        The outputs are those that the loss compares: without the softmax at the end of a Keras
        model if the loss applies it itself.

        Raises:
          TypeError: If the network takes other arguments, or returns something else.
          ValueError: If its new state is not like the old one, or the outputs are probabilities and
            the loss expects logits.
        """
        state = (self.model_state,) if tf.nest.flatten(self.model_state) else ()
        networks.check_takes(self.network, bool(state))
        networks.check_masked(self.network, tf.is_tensor(self.mask))
        returned = self.network(parameters, *state, self.inputs)
        outputs, model_state = networks.split(self.network, returned, self.model_state)
        activations.check(outputs, self.loss)
        targets.note(outputs)
        return outputs, model_state

    def model_state_after(self, is_finite: tf.Tensor, new: Structure) -> Structure:
        """Returns the new model state if a batch is finite, a bool, otherwise the old one."""
        return tf.nest.map_structure(
            lambda after, before: tf.where(is_finite, after, before), new, self.model_state
        )

    def data_loss(self, parameters: Structure) -> tf.Tensor:
        """Returns the mean loss without the regularizer, in the parameters' dtype."""
        outputs = self.outputs(parameters)[0]
        if self.is_weighted:
            return in_dtype_of(parameters, self.evaluation(outputs).value())
        return in_dtype_of(parameters, self.loss.value(outputs, self.targets))

    def evaluation(self, outputs: tf.Tensor) -> custom_op.losses.Evaluation:
        """Returns the loss at the network's outputs: value, gradient and Hessian products there."""
        return self.loss.evaluate(outputs, self.targets, *self.weights_and_mask())

    @property
    def is_weighted(self) -> bool:
        """Whether examples have weights or a mask."""
        return tf.is_tensor(self.weights) or tf.is_tensor(self.mask)

    def weights_and_mask(self) -> list[tf.Tensor | None]:
        """Returns the weights and the mask; None for none."""
        return [part if tf.is_tensor(part) else None for part in (self.weights, self.mask)]

    def first_examples(self, share: Any) -> Objective:
        """Returns the objective on the first examples of the batch.

        Args:
          share: The share of the batch, above 0 and at most 1; rounded, but at least one example. A
            number, or a scalar tensor in double precision.

        Returns:
          The objective; itself for a share of 1.
        """
        if not tf.is_tensor(share) and share == 1:
            return self
        size = self.batch_size()
        if tf.is_tensor(size) or tf.is_tensor(share):
            # As Python rounds: halves to even numbers, in double precision.
            rounded = tf.round(share * tf.cast(size, tf.float64))
            count = tf.maximum(1, tf.cast(rounded, tf.int32))
        else:
            count = max(1, round(share * size))
            if count == size:
                return self
        return self._cut(lambda tensor: tensor[:count])

    def examples(self, indices: tf.Tensor) -> Objective:
        """Returns the objective on the examples of the batch with these numbers, a vector."""
        return self._cut(lambda tensor: tf.gather(tensor, indices))

    def _cut(self, cut: Callable[[tf.Tensor], tf.Tensor]) -> Objective:
        """Returns the objective on the examples that a function leaves of a tensor of all."""
        parts = self.inputs, self.targets, self.tensors[-1]
        inputs, targets, counted = tf.nest.map_structure(cut, parts)
        return self.on(inputs, targets, self.model_state, counted)

    def batch_size(self) -> int | tf.Tensor:
        """Returns the number of examples, a tensor if it is known only when a graph runs."""
        size = self.targets.shape[0]
        return tf.shape(self.targets)[0] if size is None else size

    @property
    def first_share(self) -> Objective:
        """The part of the batch that the first device computes: here the whole."""
        return self

    @property
    def for_products(self) -> Objective:
        """The objective to linearize where the gradient is not asked for: here itself."""
        return self

    def map_terms(self, function: Callable[[Objective], Objective]) -> Objective:
        """Returns an objective with a function applied to each term; this one is the only term."""
        return function(self)

    def over_shares(self, function: Callable[[Share], tuple[list[Mean], Structure]]) -> OfBatch:
        """Returns means over the batch that a function computes of each share of it.

        Args:
          function: A function of a share that returns means over it, and the network's state after
            it (`()` if it has none).
        """
        means, model_state = function(Share(self))
        weights = [mean.weight for mean in means]
        return OfBatch([mean.tensors for mean in means], weights, model_state)

    def linearize(
        self,
        parameters: Structure,
        product_dtype: str | None = None,
        unconnected: str | None = None,
    ) -> LinearizedObjective:
        """Runs the network forward once and keeps what gradients and products need.

        Args:
          parameters: The point, a structure of floating tensors.
          product_dtype: As for `custom_op.gauss_newton`: `"bfloat16"` makes products cheaper.
          unconnected: The treatment of a parameter that the outputs do not depend on; None, the
            default, for the objective's own.

        Returns:
          The loss, its gradient and its Gauss-Newton products there.

        Raises:
          ValueError: If the outputs do not depend on a parameter, or targets do not fit.
        """
        unconnected = self.unconnected if unconnected is None else unconnected
        return LinearizedObjective(self, parameters, product_dtype, unconnected)


class LinearizedObjective:
    """An objective at a point.

    Attributes:
      parameters: The point.
      data_loss: The mean loss without the regularizer, a scalar in the parameters' dtype.
      value: The mean loss with the regularizer.
      model_state: The network's state after its forward pass; `()` if it has none. If the loss is
        not finite, the state before: one bad batch would stay in moving statistics for good.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Structure,
        product_dtype: str | None = None,
        unconnected: str = "error",
    ) -> None:
        self._regularizer = objective.regularizer
        self.parameters = parameters
        aside: list[Structure] = []

        def network(leaves: Structure) -> tf.Tensor:
            outputs, model_state = objective.outputs(leaves)
            aside.append(model_state)
            return outputs

        weights, mask = objective.weights_and_mask()
        self._operator: Any = custom_op.gauss_newton(
            network,
            parameters,
            objective.loss,
            objective.targets,
            weights=weights,
            mask=mask,
            product_dtype=product_dtype,
            unconnected=unconnected,
            # A step uses one random draw.
            check_deterministic=False,
        )
        self.model_state = aside[-1]
        if tf.executing_eagerly():
            # The traced function left symbols of its trace.
            self.model_state = objective.outputs(parameters)[1]
        self._note(objective, in_dtype_of(parameters, self._operator.loss()))

    def _note(self, objective: Objective, data_loss: tf.Tensor) -> None:
        self.data_loss = data_loss
        is_finite = tf.math.is_finite(data_loss)
        self.model_state = objective.model_state_after(is_finite, self.model_state)
        self.value = data_loss
        if self._regularizer is not None:
            self.value = data_loss + self._regularizer.value(self.parameters)

    @property
    def weighted_operators(self) -> list[tuple[Any, Any]]:
        """The weights and the Gauss-Newton operators of the terms, without the regularizer."""
        return [(1.0, self._operator)]

    @property
    def connected(self) -> list[bool]:
        """Whether the outputs depend on each parameter, in the order of `tf.nest.flatten`."""
        return self._operator.connected

    @property
    def count(self) -> tf.Tensor:
        """The number of terms in the mean, a scalar in the outputs' dtype."""
        return self._operator.count

    def gradient(self) -> Structure:
        """Returns the gradient of the value, in the structure of the parameters."""
        gradient = self._operator.gradient()
        if self._regularizer is None:
            return gradient
        return add(gradient, self._regularizer.gradient(self.parameters))

    def curvature_product(self, vector: Structure) -> Structure:
        """Returns (Jᵀ H J + the regularizer's Hessian) v, in the structure of the parameters."""
        product = self._operator.matvec(vector)
        if self._regularizer is None:
            return product
        return add(product, self._regularizer.hessian_product(self.parameters, vector))

    def curvature_along(self, vector: Structure) -> tf.Tensor:
        """Returns ⟨v, (Jᵀ H J + the regularizer's Hessian) v⟩, without a backward pass.

        Args:
          vector: A structure like the parameters.

        Returns:
          A scalar in the parameters' dtype.
        """
        curvature = in_dtype_of(self.parameters, self._operator.quadratic_form(vector))
        if self._regularizer is None:
            return curvature
        product = self._regularizer.hessian_product(self.parameters, vector)
        return curvature + inner(vector, product)
