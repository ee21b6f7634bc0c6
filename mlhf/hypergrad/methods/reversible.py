"""Exact reversible momentum (Maclaurin, Duvenaud and Adams 2015, algorithm 2).

Training runs forward in fixed point and stores only the bits that the velocity's decay loses; then
it runs backward, bit for bit, together with the adjoints of weights and velocity
(`momentum_adjoint`). With v' = μ v + p g, w' = w + m v' (M1: p = -(1-μ), m = η), a step backward is

    w = w' - m v';  g = ∇L(w);  v = (v' - p g) / μ
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count
from mlhf.hypergrad import arguments, determinism
from mlhf.hypergrad.binding import bind, check_problem
from mlhf.hypergrad.dynamics.base import State
from mlhf.hypergrad.dynamics.momentum import Momentum
from mlhf.hypergrad.exact_arithmetic import fixed_point, information_buffer
from mlhf.hypergrad.exact_arithmetic.factors import Factors
from mlhf.hypergrad.exact_arithmetic.fixed_point_momentum import FixedPointMomentum
from mlhf.hypergrad.exact_arithmetic.momentum_adjoint import MomentumAdjoint
from mlhf.hypergrad.guards import DivergedError
from mlhf.hypergrad.methods import assembly, unroll
from mlhf.hypergrad.methods.gathered import Gathered, backward_pass
from mlhf.hypergrad.methods.reverse import LARGEST_GROWTH, finish
from mlhf.hypergrad.methods.step_functions import StepFunctions
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.training import Outer, Training


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

    It needs memory for two 64-bit integers per weight, and log2(1/μ) bits per weight and step. The
    momentum is rounded to a multiple of 2⁻¹⁶ (`quantize_decay`), the same in training and in its
    derivative: the training is that of the rounded momentum, which `info["momentum"]` has. Weights
    and velocities live on a grid of 2⁻⁵².

    Args:
      problem: A `Problem` with `Momentum` of the form M1, M2 or M4 as its dynamics.
      weights: The weights that training begins with: a structure of tensors or a built Keras model;
        None if the problem or the hyperparameters make them.
      hyperparameters: A mapping, as `Problem` describes.
      per_step: Which hyperparameters' contributions by step are in `Result.per_step`: those of all
        (True), of schedules only (False), or also of hyperparameters of one number (None).
      seed: An int32, passed to losses and suppliers with a parameter of that name.
      probes: How often the gradients of the first, the middle and the last step are repeated to
        check that they have the same bits each time, at the first call for a problem and shapes;
        with 0, only the end of every call is checked.
      largest_growth: The largest growth of ‖∂E/∂w_t‖ on the way back; None for any.

    Returns:
      A `Result`. Its `info` has `momentum` (the rounded momentum of training and derivatives,
      float64 in the structure of the hyperparameter: 0.9 becomes 0.899994; the hypergradient is
      that at these values), `bits` (in the buffers at the end of training, per weight),
      `buffer_bytes`, `training_seconds`, `backward_seconds`, and `shared_gradient`: whether the
      backward pass took the gradient from the function that computes the second derivatives;
      otherwise that one has different bits, and the forward pass's function was called again.

    Raises:
      DivergedError: If training is not finite, or the adjoint grows beyond `largest_growth`; a
        `FixedPointRangeError` if weights or velocities leave |x| < 2048.
      NotDeterministicError: If gradients have different bits when computed again.
      ValueError: If the arguments don't fit the problem, or for other dynamics or a momentum of 0.
    """
    _check(problem)
    probes = check_count("probes", probes, at_least=0)
    training, weights, hyper = bind(problem, weights, hyperparameters)
    seed = arguments.as_seed(seed)
    keep = assembly.keep_of(training, per_step)
    return _Run(training, hyper, seed, keep).result(weights, probes, largest_growth)


def _check(problem: Any) -> None:
    """Raises ValueError if a problem can't be trained reversibly."""
    check_problem(problem)
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
        self._keep = keep
        dynamics: Any = training.dynamics
        self._form: str = dynamics.form
        self._factors = Factors(training, hyper)
        self._dtype = training.flat.dtype.as_numpy_dtype
        self._steps = StepFunctions(training, hyper, seed)
        self._shared = True

    def result(self, weights: Any, probes: int, largest_growth: float | None) -> Result:
        """Trains, comes back, and returns the result."""
        training = self._training
        loops = unroll.loops_of(training, self._keep)
        first = unroll.run(training, loops.begin, weights, self._hyper, self._seed)
        trained, outer, back, info = self._there_and_back(first, probes)
        if back is None and self._shared:
            # The two functions differ in a last bit at some weights, but not at those probed.
            self._shared = False
            done, _ = self._training.functions.get("probed", (0, True))
            self._training.functions["probed"] = max(done, probes), False
            trained, outer, back, info = self._there_and_back(first, 0)
        if back is None:
            raise determinism.NotDeterministicError(
                "Expected to come back to the first weights bit for bit, but some differ: a "
                "gradient had other bits on the way back. Draw batches, dropout and augmentation "
                "as pure functions of `step` and `seed`; if the loss is pure, call "
                "tf.config.experimental.enable_op_determinism() at the start, or use `reverse`."
            )
        result = finish(
            "reversible",
            training,
            weights,
            self._hyper,
            self._seed,
            trained,
            outer,
            back,
            self._keep,
            largest_growth,
        )
        result.info.update(info, momentum=self._momentum(), shared_gradient=self._shared)
        return result

    def _momentum(self) -> Any:
        """Returns the momentum as the arithmetic rounds it."""
        if "momentum" in self._hyper:
            return tf.nest.map_structure(
                lambda leaf: information_buffer.quantize_decay(leaf.numpy().astype(np.float64)),
                self._hyper["momentum"],
            )
        return information_buffer.quantize_decay(self._factors.all_of("momentum")[0])

    def _there_and_back(
        self, first: State, probes: int
    ) -> tuple[unroll.Trained, Outer, unroll.BackwardPass | None, dict[str, Any]]:
        """Trains and comes back.

        Returns:
          The training; the outer losses; the pass back, None if it ended at other weights than the
          first; and numbers of the run.
        """
        training = self._training
        loops = unroll.loops_of(training, self._keep)
        arithmetic = FixedPointMomentum(
            self._form,
            self._factors,
            first["weights"].numpy(),
            first["velocity"].numpy(),
        )
        self._probe(arithmetic, probes)
        began = time.perf_counter()
        losses = self._forward(arithmetic)
        trained_after = time.perf_counter() - began
        state = {
            name: tf.constant(fixed_point.to_float(slot, self._dtype))
            for name, slot in [("weights", arithmetic.weights), ("velocity", arithmetic.velocity)]
        }
        info = {
            "bits": arithmetic.bits,
            "buffer_bytes": arithmetic.nbytes,
            "training_seconds": trained_after,
        }
        outer, _ = unroll.run(training, loops.outer, state, self._hyper, self._seed)
        began = time.perf_counter()
        back = self._backward(arithmetic, list(outer.in_weights.values()))
        info["backward_seconds"] = time.perf_counter() - began
        trained = unroll.Trained(state, tf.cast(losses, training.flat.dtype), tf.constant(-1))
        return trained, outer, back if arithmetic.is_back else None, info

    def _forward(self, arithmetic: FixedPointMomentum) -> list[np.ndarray]:
        """Trains forward and returns the loss of each step."""
        losses = []
        for step in range(self._training.steps):
            loss, gradient = self._steps.gradient(self._weights(arithmetic), step)
            # A NumPy number, since ten thousand scalar tensors take more memory than the buffer.
            value = loss.numpy()
            if not np.isfinite(value):
                raise DivergedError(
                    f"The training loss of step {step} is {float(value)}. Lower the learning rate, "
                    "or bring the hyperparameters back to where training converges."
                )
            try:
                arithmetic.forward(step, gradient)
            except fixed_point.FixedPointRangeError as error:
                raise type(error)(f"Step {step}: {error}") from None
            losses.append(value)
        return losses

    def _backward(
        self, arithmetic: FixedPointMomentum, in_weights: Sequence[tf.Tensor]
    ) -> unroll.BackwardPass:
        """Goes back to the beginning with the adjoints of the outer losses."""
        training = self._training
        adjoints = [
            MomentumAdjoint(arithmetic.form, self._factors, self._hyper, gradient.numpy())
            for gradient in in_weights
        ]
        leaves = tf.nest.flatten(self._hyper)
        gathered = [Gathered(training, leaves, self._keep) for _ in adjoints]
        for step in reversed(range(training.steps)):
            velocity = arithmetic.float_velocity()
            moves = velocity != 0
            for adjoint in adjoints:
                adjoint.through_move(arithmetic.move(step), velocity)
            arithmetic.undo_move(step)
            weights, push = self._weights(arithmetic), arithmetic.push(step)
            products = [
                self._steps.products(weights, adjoint.direction(push), step) for adjoint in adjoints
            ]
            if self._shared:
                gradient = products[0].gradient.numpy()
            else:
                gradient = self._steps.gradient(weights, step)[1]
            arithmetic.undo_push(step, gradient)
            velocity = arithmetic.float_velocity()
            moves |= velocity != 0
            for adjoint, product, contributions in zip(adjoints, products, gathered, strict=True):
                own = adjoint.through_push(
                    arithmetic.momentum(step), velocity, gradient, product.in_weights.numpy()
                )
                adjoint.bound(moves)
                contributions.add(product.in_rows, own, adjoint.norm, adjoint.norm_over(moves))
        return backward_pass(gathered, [adjoint.state(training.flat.dtype) for adjoint in adjoints])

    def _weights(self, arithmetic: FixedPointMomentum) -> np.ndarray:
        return fixed_point.to_float(arithmetic.weights, self._dtype)

    def _probe(self, arithmetic: FixedPointMomentum, repeats: int) -> None:
        """Checks that gradients repeat, and sees whether those of the backward pass are the same.

        This is done once for a training, since it depends on shapes and code alone.
        """
        done, self._shared = self._training.functions.get("probed", (0, True))
        if repeats <= done:
            return
        last, weights = self._training.steps - 1, self._weights(arithmetic)
        steps = sorted({0, last // 2, last})

        def forward(step: int) -> np.ndarray:
            return self._steps.gradient(weights, step)[1]

        determinism.probe(forward, steps, repeats + 1)
        for step in steps:
            backward = self._steps.products(weights, np.ones_like(weights), step)
            if not determinism.same_bits(backward.gradient.numpy(), forward(step)):
                self._shared = False
        self._training.functions["probed"] = repeats, self._shared
