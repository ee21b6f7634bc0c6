"""K-FAC (Martens and Grosse 2015; Grosse and Martens 2016 for convolutions)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_number, check_parameters
from mlhf.models import keras_models
from mlhf.objective import Objective
from mlhf.optimizers.damping import reduction_ratio, scaled_by_ratio
from mlhf.optimizers.kfac import factors as factors_module
from mlhf.optimizers.kfac.blocks import blocks_of
from mlhf.optimizers.kfac.factors import Factors
from mlhf.optimizers.kfac.shares import of_batch
from mlhf.optimizers.settings import Fixed, Number
from mlhf.optimizers.step import CompiledSteps, Step
from mlhf.optimizers.step_arguments import as_tensors

# The factor of Levenberg and Marquardt's rule per step; Martens and Grosse 2015, section 6.5.
_OMEGA = 19 / 20
# The momentum with a learning rate if none is given.
_MOMENTUM = 0.9


class KFACState(NamedTuple):
    """K-FAC's state between steps."""

    step: tf.Tensor  # int32, the number of steps taken
    damping: tf.Tensor  # λ
    update: Any  # δ of the last step, in the structure of the parameters
    factors: Factors  # running means of A and G, by block
    inverses: Factors  # the damped factors' inverses, as old as `inverse_every` allows


def _check_has_no_momentum(optimizer: Any, learning_rate: Any) -> None:
    if learning_rate is None and optimizer.momentum is not None:
        raise ValueError(
            "Expected a learning_rate beside a momentum, got None: set momentum = None first, and "
            "the quadratic model gives both."
        )


def _check_has_rate(optimizer: Any, momentum: Any) -> None:
    if momentum is not None and optimizer.learning_rate is None:
        raise ValueError(
            f"Expected momentum=None without a learning_rate, got {momentum!r}: the quadratic "
            "model gives both or neither."
        )


class KFAC(CompiledSteps):
    """w ← w + δ, δ = -α (A ⊗ G + λ)⁻¹ ∇ + μ δ₋ for each layer, with Kronecker factors A and G.

    A and G are running means over batches of the second moments of a layer's inputs and of the
    gradients at its outputs, for targets drawn from the network's own distribution: A ⊗ G
    approximates the layer's block of the Fisher matrix, which is the Gauss-Newton matrix. λ is
    split between them as √λ π and √λ/π. They are taken on the first examples of a batch only
    (section 8 of the paper: an eighth): for a convolution of c channels and k × k places A costs
    k² c multiplications for each number of the layer's inputs, ten times the gradient on a whole
    batch.

    Without a learning rate, α and μ minimise the quadratic model of the batch, with its exact
    Gauss-Newton matrix and λ, over both at once (section 7 of the paper), at the cost of two
    curvature products. With one, α and μ are fixed and a step costs a gradient and the factors.

    With `damping_type="LM_heuristics"` λ is adapted every `adapt_every` steps by how well the
    quadratic model predicted the change of the loss on the batch, which is unreliable for small
    batches.

    K-FAC knows dense layers, convolutions and vectors that scale or shift channels, as in
    normalisation, in Keras models and plain functions. Any other use of a parameter is an error at
    the first step.

    Attributes:
      learning_rate: α, or None; a new value holds from the next step on.
      momentum: μ, or None; a new value holds from the next step on.
      damping: λ; a new value holds from the next step on, at which the factors are inverted anew.
        If λ is adapted, it is part of the state, and the attribute is its value in states that
        `init` makes from then on.
    """

    needs_known_sizes = True
    learning_rate = Number(above=0, schedule=True, optional=True, check=_check_has_no_momentum)
    momentum = Number(at_least=0, below=1, none=_MOMENTUM, check=_check_has_rate)
    damping = Number(above=0)
    decay, inverse_every, factor_share, fisher = Fixed(), Fixed(), Fixed(), Fixed()
    damping_type, adapt_every, seed = Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        learning_rate: float | None = None,
        damping: float = 1.0,
        *,
        momentum: float | None = None,
        decay: float = 0.95,
        inverse_every: int = 20,
        factor_share: float = 0.125,
        damping_type: str = "regular",
        adapt_every: int = 5,
        fisher: str = "sampled",
        seed: int = 0,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          learning_rate: α, positive; None for the one that the quadratic model gives. A number, a
            tensor, or a variable, read at every step; or a function of the steps taken, such as
            one of `keras.optimizers.schedules`.
          damping: λ, positive; if it is adapted, its first value.
          momentum: μ, from 0 to below 1; None for 0.9 with a learning rate, and for the quadratic
            model's without one.
          decay: The largest share of the factors that a step keeps; at first they are plain means.
          inverse_every: The number of steps between inversions; the first 3 steps invert, too.
          factor_share: The share of a batch that A and G are taken on, above 0 and at most 1; but
            at least 32 examples, if there are so many.
          damping_type: The kind of damping: `"regular"` (constant) or `"LM_heuristics"`.
          adapt_every: The number of steps between adaptations of λ.
          fisher: The kind of G: `"sampled"` draws targets, for one more backward pass; `"exact"`
            takes as many backward passes as the outputs have columns, and draws nothing.
          seed: The seed for drawing, from 0 to 2³¹ - 1.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(jit_compile)
        self.damping_type = check_choice("damping_type", damping_type, ("regular", "LM_heuristics"))
        self.learning_rate, self.momentum = learning_rate, momentum
        self.damping = damping
        self.decay = check_number("decay", decay, at_least=0, below=1)
        self.inverse_every = check_count("inverse_every", inverse_every)
        self.factor_share = check_number("factor_share", factor_share, above=0, at_most=1)
        self.adapt_every = check_count("adapt_every", adapt_every)
        self.fisher = check_choice("fisher", fisher, ("sampled", "exact"))
        self.seed = check_count("seed", seed, 0, 2**31 - 1)

    def init(self, parameters: Any) -> KFACState:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.

        Raises:
          ValueError: If a parameter is neither a kernel nor a vector, or they do not share one
            floating dtype.
        """
        parameters = as_tensors(keras_models.parameters_of(parameters))
        dtype = check_parameters(parameters)
        return self._state_like(parameters)._replace(damping=self._number("damping", dtype))

    def _state_like(self, parameters: Any) -> KFACState:
        dtype = tf.nest.flatten(parameters)[0].dtype
        zeros = {
            block.name: (tf.zeros([a, a], dtype), tf.zeros([g, g], dtype))
            for block in blocks_of(parameters)
            for a, g in [block.sides]
        }
        return KFACState(
            tf.constant(0),
            tf.zeros([], dtype),
            tf.nest.map_structure(tf.zeros_like, parameters),
            zeros,
            zeros,
        )

    def step(self, objective: Objective, parameters: Any, state: KFACState) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch, one of softmax or sigmoid cross entropy, squared or mean
            squared error. The factors' damping knows no regularizer except `mlhf.L2`.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`,
          `step_norm`, `damping`, `learning_rate` (α) and `momentum` (μ).

        Raises:
          ValueError: If a parameter is used in a way that K-FAC does not know, or the loss's
            targets have no known distribution.
        """
        _check_single(objective)
        return self._take(objective, parameters, state)

    def _step(
        self, objective: Objective, parameters: Any, state: KFACState, numbers: dict[str, tf.Tensor]
    ) -> tuple[Any, ...]:
        # Without a rate, both come from the quadratic model: another computation.
        rate, momentum = numbers.get("learning_rate"), numbers["momentum"]
        fixed = rate is not None
        is_new = tf.constant(False)
        if self.damping_type == "regular":
            is_new = state.damping != numbers["damping"]
            state = state._replace(damping=numbers["damping"])
        decays = getattr(objective.regularizer, "coefficient", 0.0)
        blocks = blocks_of(parameters)
        seed = tf.stack([tf.constant(self.seed), state.step])
        batch = of_batch(objective, parameters, blocks, self.factor_share, self.fisher, seed)
        value, gradient = batch.value, batch.gradient
        # A batch that is not finite moves nothing: once in an average, it would stay there.
        is_finite = _all_finite(
            [value, tf.linalg.global_norm(gradient), *tf.nest.flatten(batch.factors)]
        )
        # Nor does a batch count whose examples are all ignored.
        factors = tf.cond(
            is_finite & batch.counts,
            lambda: self._averaged(state, batch.factors),
            lambda: state.factors,
        )
        fresh = (state.step % self.inverse_every == 0) | (state.step < 3) | is_new
        inverses = tf.cond(
            fresh,
            lambda: factors_module.inverses(blocks, factors, state.damping + decays),
            lambda: state.inverses,
        )
        # The quadratic model is -⟨∇, ·⟩ downhill: signs as in the paper, δ is added.
        proposal = [-leaf for leaf in factors_module.solve(blocks, inverses, gradient)]
        last = tf.nest.flatten(state.update)

        if not fixed or self.damping_type == "LM_heuristics":
            linearized = objective.for_products.linearize(parameters)

            def damped(leaves: list[tf.Tensor]) -> list[tf.Tensor]:
                packed = tf.nest.pack_sequence_as(parameters, leaves)
                product = tf.nest.flatten(linearized.curvature_product(packed))
                return [p + state.damping * v for p, v in zip(product, leaves, strict=True)]

        if not fixed:
            rate, momentum = _minimize(gradient, proposal, last, damped)
        update = [rate * p + momentum * d for p, d in zip(proposal, last, strict=True)]
        # Not by the norm, which overflows sooner: a rate that is far too large has to show.
        is_finite &= tf.reduce_all([tf.reduce_all(tf.math.is_finite(d)) for d in update])
        update = [tf.where(is_finite, d, tf.zeros_like(d)) for d in update]
        moved = tf.nest.pack_sequence_as(
            parameters,
            [w + d for w, d in zip(tf.nest.flatten(parameters), update, strict=True)],
        )
        damping = state.damping
        if self.damping_type == "LM_heuristics":
            predicted = _dot(gradient, update) + 0.5 * _dot(update, damped(update))
            damping = tf.cond(
                (state.step + 1) % self.adapt_every == 0,
                lambda: self._adapted(state.damping, value, _value(objective, moved), predicted),
                lambda: state.damping,
            )
        last = [tf.where(is_finite, d, before) for d, before in zip(update, last, strict=True)]
        new_state = KFACState(
            state.step + tf.cast(is_finite, state.step.dtype),
            damping,
            tf.nest.pack_sequence_as(state.update, last),
            factors,
            inverses,
        )
        metrics = {
            "loss": value,
            "gradient_norm": tf.linalg.global_norm(gradient),
            "step_norm": tf.linalg.global_norm(update),
            "damping": state.damping,
            "learning_rate": rate,
            "momentum": momentum,
        }
        model_state = objective.model_state_after(is_finite, batch.model_state)
        return moved, new_state, model_state, metrics

    def _averaged(self, state: KFACState, batch: Factors) -> Factors:
        dtype = state.damping.dtype
        count = tf.cast(state.step, dtype)
        keep = tf.minimum(count / (count + 1), tf.constant(self.decay, dtype))
        return tf.nest.map_structure(
            lambda old, new: keep * old + (1 - keep) * new, state.factors, batch
        )

    def _adapted(
        self, damping: tf.Tensor, before: tf.Tensor, after: tf.Tensor, predicted: tf.Tensor
    ) -> tf.Tensor:
        """Adapts λ by Levenberg and Marquardt's rule, with ω = (19/20)^T every T steps."""
        ratio = reduction_ratio(before, after, predicted)
        return scaled_by_ratio(damping, ratio, _OMEGA**self.adapt_every)


def _minimize(
    gradient: list[tf.Tensor],
    proposal: list[tf.Tensor],
    last: list[tf.Tensor],
    damped: Callable[[list[tf.Tensor]], list[tf.Tensor]],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns α and μ that minimise ⟨∇, δ⟩ + ½⟨δ, (G + λ) δ⟩ over δ = α Δ + μ δ₋."""
    curved, last_curved = damped(proposal), damped(last)
    a, b, c = _dot(proposal, curved), _dot(proposal, last_curved), _dot(last, last_curved)
    p, q = _dot(gradient, proposal), _dot(gradient, last)
    determinant = a * c - b * b
    # At the first step, and if both directions are the same, μ = 0.
    independent = determinant > 1e-6 * a * c
    safe = tf.where(independent, determinant, tf.ones_like(determinant))
    alone = -p / tf.where(a > 0, a, tf.ones_like(a))
    alpha = tf.where(independent, (b * q - c * p) / safe, alone)
    return alpha, tf.where(independent, (b * p - a * q) / safe, tf.zeros_like(alpha))


def _check_single(objective: Any) -> None:
    """Raises ValueError for objectives that factors of one batch can't describe."""
    terms = getattr(objective, "terms", ())
    if len(terms) > 1:
        raise ValueError(
            "KFAC expected an objective of one network on one batch, got one with a sum of "
            f"{len(terms)} terms: step with mlhf.MartensHessianFree or mlhf.HessianFree instead."
        )


def _value(objective: Objective, parameters: Any) -> tf.Tensor:
    value = objective.data_loss(parameters)
    if objective.regularizer is not None:
        value += objective.regularizer.value(parameters)
    return value


def _all_finite(values: list[tf.Tensor]) -> tf.Tensor:
    """Returns whether all values are finite, by their sums, which are not if an entry is not."""
    sums = tf.stack([tf.reduce_sum(value) for value in values])
    return tf.reduce_all(tf.math.is_finite(sums))


def _dot(u: list[tf.Tensor], v: list[tf.Tensor]) -> tf.Tensor:
    return tf.add_n([tf.reduce_sum(a * b) for a, b in zip(u, v, strict=True)])
