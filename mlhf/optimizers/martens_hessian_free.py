"""Hessian-free optimization as Martens ran it (ICML 2010; Martens and Sutskever 2012)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_number
from mlhf.layout import plain_form
from mlhf.objective import Objective
from mlhf.optimizers.curvature_shares import linearize_shares
from mlhf.optimizers.damping import reduction_ratio, scaled_by_ratio
from mlhf.optimizers.hessian_free import HessianFreeState, initial_state
from mlhf.optimizers.preconditioners.choice import check_preconditioner, of_vectors
from mlhf.optimizers.settings import Fixed, Number
from mlhf.optimizers.step import CompiledSteps, Step

# Conjugate gradients keep the iterates with the numbers ⌈1.3ʲ⌉ (section 4.6 of the paper).
_SPACING = 1.3
# Progress is measured over max(10, i/10) iterations (section 4.4).
_SHORTEST_WINDOW, _WINDOW_SHARE = 10, 0.1
# The line search: sufficient decrease, shrinking, and when it gives up.
_ARMIJO, _SHRINK, _LARGEST_TRIALS = 1e-2, 0.8, 60
# λ can't grow again from zero.
_LEAST_DAMPING = 1e-8


class MartensHessianFree(CompiledSteps):
    """w ← w - α x with (G + λ I) x ≈ g, solved until progress is slow, then checked on the loss.

    - Conjugate gradients start at a multiple of the last solution, the one from 0 to `warm_start`
      that minimises the quadratic model φ(x) = ½⟨x, (G + λ I) x⟩ - ⟨x, g⟩, and stop when φ has
      gained less than a share kε of itself over the last k = max(10, i/10) iterations, or after
      `cg_iterations`. (Martens takes `warm_start` itself. On another batch that start can be far
      worse than zero, in directions that a few iterations never reach, and is then carried from
      step to step.)
    - From the last iterate, the step goes back over the kept ones while the loss does not rise.
    - A line search takes α = 1, or shrinks it until the loss has fallen enough; if it does not fall
      at all, no step is taken.
    - λ is adapted by Levenberg and Marquardt's rule from ρ, the loss's change at α = 1 over φ.
    - Gradient and losses are taken on the whole batch; G, which takes most of the time, may be
      taken on its first examples only.

    Martens' preconditioner (the gradients' squares, example by example) is left out; another can be
    given. The optimizer is meant for large batches: a small batch's loss says little about the
    next batch's.

    Attributes:
      damping: λ; a new value holds from the next step on. If λ is adapted, it is part of the
        state, and the attribute is its value in states that `init` makes from then on.
    """

    damping = Number(at_least=0)
    cg_iterations, cg_tolerance, warm_start = Fixed(), Fixed(), Fixed()
    curvature_share, damping_type, decay, preconditioner = Fixed(), Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        damping: float = 1.0,
        cg_iterations: int = 250,
        *,
        cg_tolerance: float = 5e-4,
        warm_start: float = 0.95,
        curvature_share: float = 1.0,
        damping_type: str = "LM_heuristics",
        decay: float = 2 / 3,
        preconditioner: Any = None,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          damping: λ, at least 0; if it is adapted, its first value.
          cg_iterations: The largest number of iterations, each one product with G.
          cg_tolerance: ε.
          warm_start: The largest multiple of the last solution at which conjugate gradients start,
            from 0 to 1.
          curvature_share: The share of the batch that G is taken on, above 0 and at most 1.
          damping_type: The kind of damping: `"LM_heuristics"`, or `"regular"` for a constant λ.
          decay: The factor by which λ is multiplied where ρ > 3/4 and divided where ρ < 1/4.
          preconditioner: The preconditioner of conjugate gradients: None,
            `mlhf.NystromPreconditioner(rank)`, or a function `(objective, parameters, damping)`
            that returns a function of a structure like the parameters, an approximation of
            (G + λ I)⁻¹. It has to be symmetric and positive definite.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
          TypeError: If the preconditioner is something else.
        """
        super().__init__(jit_compile)
        self.damping_type = check_choice("damping_type", damping_type, ("regular", "LM_heuristics"))
        self.damping = damping
        self.cg_iterations = check_count("cg_iterations", cg_iterations)
        self.cg_tolerance = check_number("cg_tolerance", cg_tolerance, at_least=0)
        self.warm_start = check_number("warm_start", warm_start, at_least=0, at_most=1)
        self.curvature_share = check_number("curvature_share", curvature_share, above=0, at_most=1)
        self.decay = check_number("decay", decay, above=0, below=1)
        self.preconditioner = check_preconditioner(preconditioner)

    def init(self, parameters: Any) -> HessianFreeState:
        """Returns the state before the first step.

        Args:
          parameters: A structure of floating tensors of one dtype, or a built Keras model.
        """
        return initial_state(parameters, type(self).damping.read(self))

    def _state_like(self, parameters: Any) -> HessianFreeState:
        return initial_state(parameters)

    def step(self, objective: Objective, parameters: Any, state: HessianFreeState) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`,
          `step_norm`, `damping`, `cg_iterations`, `learning_rate` (α), `backtracked` (the
          iteration whose solution was taken) and `ratio` (ρ).
        """
        return self._take(objective, parameters, state)

    def _step(
        self,
        objective: Objective,
        parameters: Any,
        state: HessianFreeState,
        numbers: dict[str, tf.Tensor],
    ) -> tuple[Any, ...]:
        if self.damping_type == "regular":
            state = state._replace(damping=numbers["damping"])
        form = plain_form(parameters)
        linearized, curvature = linearize_shares(objective, parameters, form, self.curvature_share)
        gradient = form.flatten(linearized.gradient())
        solved = _solve(
            lambda v: curvature(v) + state.damping * v,
            gradient,
            state.solution,
            self.warm_start,
            self.cg_iterations,
            self.cg_tolerance,
            of_vectors(self.preconditioner, objective, parameters, form, curvature, state.damping),
        )
        here = form.flatten(parameters)

        def value(x: tf.Tensor) -> tf.Tensor:
            moved = form.unflatten(here - x)
            loss = objective.data_loss(moved)
            if objective.regularizer is not None:
                loss += objective.regularizer.value(moved)
            # A loss that is not finite is never better.
            return tf.where(tf.math.is_finite(loss), loss, tf.constant(np.inf, loss.dtype))

        solution, iteration, loss = _backtrack(value, solved)
        predicted = tf.gather(solved.models, iteration)
        ratio = reduction_ratio(linearized.value, loss, predicted)
        rate = _line_search(
            value, solution, linearized.value, loss, tf.tensordot(gradient, solution, 1)
        )
        damping = state.damping
        if self.damping_type == "LM_heuristics":
            damping = scaled_by_ratio(damping, ratio, self.decay)
            damping = tf.maximum(damping, tf.constant(_LEAST_DAMPING, damping.dtype))
        metrics = {
            "loss": linearized.value,
            "gradient_norm": tf.norm(gradient),
            "step_norm": rate * tf.norm(solution),
            "damping": state.damping,
            "cg_iterations": solved.iterations,
            "learning_rate": rate,
            "backtracked": iteration,
            "ratio": ratio,
        }
        # A step that is not taken must not be multiplied by zero: it may not be finite.
        moved = tf.where(rate > 0, here - rate * solution, here)
        # Nor do the next conjugate gradients start from such a solution.
        nothing = tf.zeros_like(gradient)
        last = tf.where(tf.math.is_finite(tf.norm(solved.solution)), solved.solution, nothing)
        new_state = HessianFreeState(last, damping)
        return form.unflatten(moved), new_state, linearized.model_state, metrics


class _Solved(NamedTuple):
    """The results of conjugate gradients."""

    solution: tf.Tensor  # the last iterate
    iterations: tf.Tensor  # int32
    models: tf.Tensor  # φ after i iterations, [n + 1]
    kept: tf.TensorArray  # iterates
    numbers: tf.Tensor  # the iterations after which they were kept, int32


def _kept_numbers(iterations: int) -> list[int]:
    """Returns the numbers ⌈1.3ʲ⌉ up to a largest one, each once."""
    numbers = {math.ceil(_SPACING**j) for j in range(200)}
    return sorted(number for number in numbers if number <= iterations)


def _share_of_last(
    last: tf.Tensor, product: tf.Tensor, gradient: tf.Tensor, warm_start: float
) -> tf.Tensor:
    """Returns the s in [0, warm_start] that minimises φ(s x₋) = s²/2 ⟨x₋, A x₋⟩ - s ⟨x₋, g⟩."""
    curved = tf.tensordot(last, product, 1)
    best = tf.tensordot(last, gradient, 1) / tf.where(curved > 0, curved, tf.ones_like(curved))
    usable = (curved > 0) & tf.math.is_finite(best)
    return tf.where(usable, tf.clip_by_value(best, 0, warm_start), tf.zeros_like(best))


def _solve(
    matvec: Callable[[tf.Tensor], tf.Tensor],
    gradient: tf.Tensor,
    last: tf.Tensor,
    warm_start: float,
    iterations: int,
    tolerance: float,
    preconditioner: Callable[[tf.Tensor], tf.Tensor] | None,
) -> _Solved:
    numbers = _kept_numbers(iterations)
    slot_of = np.full(iterations + 1, -1, np.int32)
    slot_of[numbers] = np.arange(len(numbers))
    slots = tf.constant(slot_of)
    dtype = gradient.dtype

    precondition = preconditioner or (lambda r: r)

    def model(x: tf.Tensor, r: tf.Tensor) -> tf.Tensor:
        return -0.5 * tf.tensordot(x, gradient + r, 1)

    def keep_going(
        i: tf.Tensor,
        x: tf.Tensor,
        r: tf.Tensor,
        p: tf.Tensor,
        rho: tf.Tensor,
        models: tf.Tensor,
        kept: tf.TensorArray,
        positive: tf.Tensor,
    ) -> tf.Tensor:
        del x, p, kept
        window = tf.maximum(
            _SHORTEST_WINDOW, tf.cast(tf.math.ceil(_WINDOW_SHARE * tf.cast(i, dtype)), tf.int32)
        )
        now = models[i]
        gain = now - models[tf.maximum(i - window, 0)]
        # (φ_i - φ_{i-k}) / φ_i < kε, for a negative φ_i.
        slow = (i > window) & (now < 0) & (gain > tf.cast(window, dtype) * tolerance * now)
        return (i < iterations) & positive & (rho > 0) & ~slow & tf.reduce_all(r == r)

    def iterate(
        i: tf.Tensor,
        x: tf.Tensor,
        r: tf.Tensor,
        p: tf.Tensor,
        rho: tf.Tensor,
        models: tf.Tensor,
        kept: tf.TensorArray,
        positive: tf.Tensor,
    ) -> tuple[Any, ...]:
        product = matvec(p)
        curved = tf.tensordot(p, product, 1)
        positive = curved > 0
        alpha = tf.where(positive, rho / tf.where(positive, curved, 1), 0)
        x, r = x + alpha * p, r - alpha * product
        y = precondition(r)
        new_rho = tf.tensordot(r, y, 1)
        p = y + new_rho / rho * p
        models = tf.tensor_scatter_nd_update(models, [[i + 1]], [model(x, r)])
        slot = slots[i + 1]
        kept = tf.cond(slot >= 0, lambda: kept.write(slot, x), lambda: kept)
        return i + 1, x, r, p, new_rho, models, kept, positive

    product = matvec(last)
    share = _share_of_last(last, product, gradient, warm_start)
    start, r = share * last, gradient - share * product
    models = tf.concat([[model(start, r)], tf.zeros([iterations], dtype)], 0)
    kept = tf.TensorArray(dtype, len(numbers), element_shape=gradient.shape, clear_after_read=False)
    y = precondition(r)
    state = (0, start, r, y, tf.tensordot(r, y, 1), models, kept, True)
    i, x, _, _, _, models, kept, _ = tf.while_loop(
        keep_going, iterate, state, maximum_iterations=iterations
    )
    return _Solved(x, i, models, kept, tf.constant(numbers, tf.int32))


def _backtrack(
    value: Callable[[tf.Tensor], tf.Tensor], solved: _Solved
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the iterate to which the loss does not rise going back, its number, and its loss."""

    def better(
        slot: tf.Tensor, x: tf.Tensor, iteration: tf.Tensor, loss: tf.Tensor, go: tf.Tensor
    ) -> tf.Tensor:
        del x, iteration, loss
        return (slot >= 0) & go

    def back(
        slot: tf.Tensor, x: tf.Tensor, iteration: tf.Tensor, loss: tf.Tensor, go: tf.Tensor
    ) -> tuple[Any, ...]:
        earlier = solved.kept.read(slot)
        other = value(earlier)
        go = other <= loss
        return (
            slot - 1,
            tf.where(go, earlier, x),
            tf.where(go, solved.numbers[slot], iteration),
            tf.where(go, other, loss),
            go,
        )

    # The last iterate that was kept may be the solution itself.
    slot = tf.reduce_sum(tf.cast(solved.numbers < solved.iterations, tf.int32)) - 1
    state = (slot, solved.solution, solved.iterations, value(solved.solution), True)
    _, x, iteration, loss, _ = tf.while_loop(
        better, back, state, maximum_iterations=solved.numbers.shape[0]
    )
    return x, iteration, loss


def _line_search(
    value: Callable[[tf.Tensor], tf.Tensor],
    solution: tf.Tensor,
    before: tf.Tensor,
    after: tf.Tensor,
    slope: tf.Tensor,
) -> tf.Tensor:
    """Returns the largest of 1, 0.8, 0.64 ... that lowers the loss enough; 0 if none does."""

    # Written so that NaN is never low enough.
    def low_enough(rate: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
        return loss <= before - _ARMIJO * rate * slope

    def go_on(trial: tf.Tensor, rate: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
        del trial
        return (slope > 0) & tf.math.is_finite(before) & ~low_enough(rate, loss)

    def shrink(trial: tf.Tensor, rate: tf.Tensor, loss: tf.Tensor) -> tuple[Any, ...]:
        del loss
        rate = _SHRINK * rate
        return trial + 1, rate, value(rate * solution)

    state = (0, tf.ones_like(before), after)
    _, rate, loss = tf.while_loop(go_on, shrink, state, maximum_iterations=_LARGEST_TRIALS)
    return tf.where((slope > 0) & low_enough(rate, loss), rate, tf.zeros_like(rate))
