"""Exact reversible momentum (Maclaurin, Duvenaud and Adams 2015, algorithm 2).

Training runs forward in fixed point and keeps nothing but the bits that the velocity's decay loses;
then it runs backward, bit for bit, and takes the adjoints along. With v' = μ v + p g, w' = w + m v'
(M1: p = -(1-μ), m = η), in the reverse step, the adjoints dw and dv of w' and v':

    dm = <dw, v'>;  w = w' - m v';  g = ∇L(w);  v = (v' - p g) / μ
    dv += m dw;  dμ += <dv, v + ∂p/∂μ g>;  dη += ∂m/∂η dm + ∂p/∂η <dv, g>
    dw += H p dv;  dλ += ∂<g, p dv>/∂λ;  dv = μ dv
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.hypergrad import assembly, determinism, fixed_point, unroll
from mlhf.hypergrad.dynamics_momentum import Momentum
from mlhf.hypergrad.factors import Factors
from mlhf.hypergrad.fixed_point_momentum import FORMS, FixedPointMomentum
from mlhf.hypergrad.guards import DivergedError
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.reverse import LARGEST_GROWTH, finish
from mlhf.hypergrad.training import Training
from mlhf.validation import check_count

_RATE, _MOMENTUM = "learning_rate", "momentum"


def reversible(
    problem: Any,
    weights: Any,
    hyperparameters: Any,
    *,
    per_step: bool | None = None,
    seed: int | tf.Tensor = 0,
    probes: int = 2,
    largest_growth: float | None = LARGEST_GROWTH,
) -> Result:
    """Differentiates through the whole training without storing it; exact.

    Memory: two 64-bit integers a weight, and log2(1/μ) bits a weight and step. The momentum is
    rounded to a multiple of 2⁻¹⁶ (`quantize_decay`), the same in training and in its derivative;
    weights and velocities live on a grid of 2⁻⁵².

    Args:
      problem: A `Problem` with `Momentum` of the form M1, M2 or M4 as its dynamics.
      weights: What training begins with: a structure of tensors or a built Keras model; None where
        the problem or the hyperparameters make them.
      hyperparameters: A mapping, as `Problem` says.
      per_step: Whether contributions by step are kept in `Result.per_step`: of all hyperparameters,
        of none but schedules (False), or of those of one number (None).
      seed: int32 that losses and suppliers with a parameter of that name get.
      probes: How often the gradients of the first, the middle and the last step are computed
        beforehand to see that they have the same bits each time; 0 leaves it to the check at the
        end.
      largest_growth: How much ‖∂E/∂w_t‖ may grow on the way back; None for any amount.

    Returns:
      A `Result`. Its `info` has `bits` (in the buffers at the end of training, a weight),
      `buffer_bytes`, and `shared_gradient`: whether the backward pass took the gradient from the
      function that computes the second derivatives, or, where that has other bits, called the
      forward pass's once more.

    Raises:
      DivergedError: If training is not finite, or the adjoint grows beyond `largest_growth`; a
        `FixedPointRangeError` if weights or velocities leave |x| < 2048.
      NotDeterministicError: If gradients have other bits when computed again.
      ValueError: For what `Problem.bind` refuses, other dynamics, or a momentum of 0.
    """
    _check(problem)
    probes = check_count("probes", probes, at_least=0)
    training, weights, hyper = problem.bind(weights, hyperparameters)
    seed = tf.convert_to_tensor(seed, tf.int32)
    keep = assembly.keep_of(training, per_step)
    return _Run(training, hyper, seed, keep).result(weights, probes, largest_growth)


def _check(problem: Any) -> None:
    dynamics = problem.dynamics
    if not tf.executing_eagerly():
        raise ValueError(
            "Expected reversible to be called eagerly, got it inside a tf.function: its integers "
            "are NumPy's. Call it outside, or use `reverse`."
        )
    if not isinstance(dynamics, Momentum):
        raise ValueError(
            f"Expected Momentum as the dynamics of a reversible training, got {dynamics!r}: a step "
            "of others can't be undone. Use `reverse`, which stores states or checkpoints."
        )
    if dynamics.form == "M3":
        raise ValueError(
            'Expected Momentum of the form M1, M2 or M4, got M3: the same training as form="M4", '
            "with v = w - w₋."
        )
    if dynamics.nesterov:
        raise ValueError(
            "Expected Momentum without nesterov=True, whose step can't be undone: its last part "
            "is along a gradient at weights that are not known yet. Use `reverse`."
        )


class _Run:
    """One training, forward and backward."""

    def __init__(self, training: Training, hyper: Any, seed: tf.Tensor, keep: list[bool]):
        self._training, self._hyper, self._seed = training, hyper, seed
        self._leaves = tf.nest.flatten(hyper)
        self._keep = keep
        dynamics: Any = training.dynamics
        self._form_name: str = dynamics.form
        self._form = FORMS[dynamics.form]
        self._factors = Factors(training, hyper)
        self._dtype = training.flat.dtype.as_numpy_dtype
        self._gradient_of, self._products_of = _compiled(training)
        self._shared = True

    def result(self, weights: Any, probes: int, largest_growth: float | None) -> Result:
        training = self._training
        loops = unroll.loops_of(training, self._keep)
        first = unroll.run(training, loops.begin, weights, self._hyper, self._seed)
        arithmetic = FixedPointMomentum(
            self._form_name,
            self._factors,
            first["weights"].numpy(),
            first["velocity"].numpy(),
        )
        self._probe(arithmetic, probes)
        losses = self._forward(arithmetic)
        state = {
            name: tf.constant(fixed_point.to_float(slot, self._dtype))
            for name, slot in [("weights", arithmetic.weights), ("velocity", arithmetic.velocity)]
        }
        info = {"bits": arithmetic.bits, "buffer_bytes": arithmetic.nbytes}
        outer, _ = unroll.run(training, loops.outer, state, self._hyper, self._seed)
        pulled = self._backward(arithmetic, list(outer.in_weights.values()))
        if not arithmetic.is_back:
            raise determinism.NotDeterministicError(
                "Expected to come back to the first weights bit for bit, but some differ: a "
                "gradient had other bits on the way back. Draw batches, dropout and augmentation "
                "as pure functions of `step` and `seed`; if the loss is pure, call "
                "tf.config.experimental.enable_op_determinism() at the start, or use `reverse`."
            )
        trained = unroll.Trained(state, tf.stack(losses), tf.constant(-1))
        result = finish(
            "reversible",
            training,
            weights,
            self._hyper,
            self._seed,
            trained,
            outer,
            pulled,
            self._keep,
            largest_growth,
        )
        result.info.update(info, shared_gradient=self._shared)
        return result

    def _forward(self, arithmetic):
        losses = []
        for step in range(self._training.steps):
            loss, gradient = self._gradient(arithmetic, step)
            if not np.isfinite(loss.numpy()):
                raise DivergedError(
                    f"The training loss of step {step} is {float(loss)}. Lower the learning rate, "
                    "or bring the hyperparameters back to where training converges."
                )
            try:
                arithmetic.forward(step, gradient.numpy())
            except fixed_point.FixedPointRangeError as error:
                raise type(error)(f"Step {step}: {error}") from None
            losses.append(tf.cast(loss, self._training.flat.dtype))
        return losses

    def _backward(self, arithmetic, in_weights):
        training, form = self._training, self._form
        dws = [gradient.numpy().astype(np.float64) for gradient in in_weights]
        dvs = [np.zeros_like(dw) for dw in dws]
        gathered = [_Gathered(training, self._leaves, self._keep) for _ in dws]
        for step in reversed(range(training.steps)):
            move, push = arithmetic.move(step), arithmetic.push(step)
            momentum = arithmetic.momentum(step)
            in_rate: list[Any] = [None] * len(dws)
            if _RATE in self._hyper and form.move_in_rate:
                after = fixed_point.to_float(arithmetic.velocity)
                for k, dw in enumerate(dws):
                    in_rate[k] = self._inner(_RATE, form.move_in_rate, dw, after)
            arithmetic.undo_move(step)
            vector = tf.constant(fixed_point.to_float(arithmetic.weights, self._dtype))
            dvs = [dv + self._factors.times(move, dw) for dv, dw in zip(dvs, dws, strict=True)]
            products = []
            for dv in dvs:
                direction = self._factors.times(push, dv).astype(self._dtype)
                products.append(self._products(vector, tf.constant(direction), step))
            gradient = products[0].gradient.numpy()
            if not self._shared:
                gradient = self._gradient(arithmetic, step)[1].numpy()
            arithmetic.undo_push(step, gradient)
            gradient = gradient.astype(np.float64)
            before = fixed_point.to_float(arithmetic.velocity)
            for k, (dv, product) in enumerate(zip(dvs, products, strict=True)):
                own = {}
                if _RATE in self._hyper:
                    if form.push_in_rate:
                        in_rate[k] = self._inner(_RATE, form.push_in_rate, dv, gradient)
                    own[_RATE] = in_rate[k]
                if _MOMENTUM in self._hyper:
                    along = before + gradient if form.push_in_momentum else before
                    own[_MOMENTUM] = self._inner(_MOMENTUM, 1.0, dv, along)
                dws[k] = dws[k] + product.in_weights.numpy()
                dvs[k] = self._factors.times(momentum, dv)
                gathered[k].add(product.in_rows, own, float(np.sqrt(np.square(dws[k]).sum())))
        adjoints = [
            {"weights": tf.constant(dw, self._dtype), "velocity": tf.constant(dv, self._dtype)}
            for dw, dv in zip(dws, dvs, strict=True)
        ]
        return unroll.Pulled(
            adjoints=adjoints,
            sums=[found.sums() for found in gathered],
            by_step=[found.by_step() for found in gathered],
            norms=[found.norms() for found in gathered],
            drift=tf.zeros([], training.flat.dtype),
        )

    def _gradient(self, arithmetic, step):
        vector = tf.constant(fixed_point.to_float(arithmetic.weights, self._dtype))
        return unroll.run(
            self._training,
            self._gradient_of,
            vector,
            tf.constant(step),
            self._seed,
            *self._leaves,
        )

    def _products(self, vector, direction, step):
        return unroll.run(
            self._training,
            self._products_of,
            vector,
            direction,
            tf.constant(step),
            self._seed,
            *self._leaves,
        )

    def _inner(self, name, sign, a, b):
        return [sign * found for found in self._factors.inner(name, a, b)]

    def _probe(self, arithmetic, repeats):
        """Sees whether gradients repeat, and whether those of the backward pass are the same."""
        if not repeats:
            return
        last = self._training.steps - 1
        steps = sorted({0, last // 2, last})

        def forward(step):
            return self._gradient(arithmetic, step)[1].numpy()

        determinism.probe(forward, steps, repeats + 1)
        vector = tf.constant(fixed_point.to_float(arithmetic.weights, self._dtype))
        direction = tf.ones_like(vector)
        for step in steps:
            backward = self._products(vector, direction, step).gradient.numpy()
            if not determinism.same_bits(backward, forward(step)):
                self._shared = False


class _Gathered:
    """What the steps contributed to the gradient of one outer loss, from the last to the first."""

    def __init__(self, training, leaves, keep):
        self._owners, self._scheduled = training.resolver.leaf_owner, training.resolver.scheduled
        self._kept = [k or s for k, s in zip(keep, self._scheduled, strict=True)]
        self._dtype = training.flat.dtype
        self._leaves = leaves
        self._sums = [
            np.zeros([] if scheduled else leaf.shape, leaf.dtype.as_numpy_dtype)
            for leaf, scheduled in zip(leaves, self._scheduled, strict=True)
        ]
        self._rows: list[list[np.ndarray]] = [[] for _ in leaves]
        self._norms: list[float] = []

    def add(self, in_rows, own, norm):
        self._norms.append(norm)
        own = {name: iter(parts) for name, parts in own.items()}
        for i, owner in enumerate(self._owners):
            part = next(own[owner]) if owner in own else in_rows[i].numpy()
            if self._kept[i]:
                self._rows[i].append(part)
            if not self._scheduled[i]:
                self._sums[i] += part

    def sums(self):
        return [
            tf.constant(total, leaf.dtype)
            for total, leaf in zip(self._sums, self._leaves, strict=True)
        ]

    def by_step(self):
        return [
            tf.constant(np.stack(rows[::-1]), leaf.dtype)
            if kept
            else tf.zeros([len(self._norms), 0], leaf.dtype)
            for rows, leaf, kept in zip(self._rows, self._leaves, self._kept, strict=True)
        ]

    def norms(self):
        return tf.constant(self._norms[::-1], self._dtype)


def _compiled(training: Training):
    """Returns the gradient and the second-order products of a step, each traced once."""
    if "reversible" not in training.functions:
        resolver, size, dtype = training.resolver, training.flat.size, training.flat.dtype

        def gradient(vector, step, seed, *leaves):
            rows = resolver.rows(resolver.pack(leaves), step)
            return training.gradient(vector, rows, step, seed)

        def products(vector, direction, step, seed, *leaves):
            rows = resolver.rows(resolver.pack(leaves), step)
            return training.gradient_vjp(vector, direction, rows, step, seed)

        vector, number = tf.TensorSpec([size], dtype), tf.TensorSpec([], tf.int32)
        leaves = [
            tf.TensorSpec(shape, leaf_dtype)
            for shape, leaf_dtype in zip(resolver.leaf_shapes, resolver.leaf_dtypes, strict=True)
        ]
        training.functions["reversible"] = tuple(
            tf.function(function, autograph=False).get_concrete_function(*specs, *leaves)
            for function, specs in [
                (gradient, [vector, number, number]),
                (products, [vector, vector, number, number]),
            ]
        )
    return training.functions["reversible"]
