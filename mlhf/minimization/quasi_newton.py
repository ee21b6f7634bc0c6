"""Quasi-Newton methods with line searches, in NumPy around a compiled gradient."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import tensorflow as tf

from custom_op.flat_form import FlatForm
from mlhf.checks import term_losses
from mlhf.minimization.watch import STALLED, Interrupted, Watch
from mlhf.objective import Objective

# A dense approximation of the inverse Hessian: 8,000 parameters take half a gigabyte.
LARGEST_DENSE = 8000
# The strong Wolfe conditions.
_ARMIJO, _CURVATURE = 1e-4, 0.9


class _Point(NamedTuple):
    """The objective at a point."""

    x: np.ndarray
    loss: float
    gradient: np.ndarray
    terms: dict[str, float]

    def metrics(self) -> dict[str, float]:
        norm = float(np.linalg.norm(self.gradient))
        return {"loss": self.loss, "gradient_norm": norm, **self.terms}


class FlatObjective:
    """An objective as a function of a float64 vector, which evaluates each point once.

    Attributes:
      evaluations: The number of evaluations.
    """

    def __init__(self, objective: Objective, parameters: Any) -> None:
        """Prepares the compiled gradient.

        Args:
          objective: The objective.
          parameters: The parameters, for their structure and dtype.
        """
        self._form = FlatForm(parameters, "parameters")
        self._dtype = tf.nest.flatten(parameters)[0].dtype
        self._last: list[_Point] = []
        self.evaluations = 0

        def evaluate(objective: Objective, x: tf.Tensor) -> tuple[Any, ...]:
            with term_losses.noted() as losses:
                linearized = objective.linearize(self._form.unflatten(x))
                gradient = self._form.flatten(linearized.gradient())
            return linearized.value, gradient, losses

        compiled = tf.function(evaluate, autograph=False)
        self._evaluate: Callable[..., Any] = functools.partial(compiled, objective)
        self.start = self._form.flatten(parameters).numpy().astype(np.float64)

    def at(self, x: np.ndarray) -> _Point:
        """Returns the objective at a point, from memory if it was asked for lately."""
        for point in self._last:
            if np.array_equal(point.x, x):
                return point
        loss, gradient, terms = self._evaluate(tf.constant(x, self._dtype))
        self.evaluations += 1
        values = {name: float(value) for name, value in terms.items()}
        gradient = gradient.numpy().astype(np.float64)
        point = _Point(np.array(x), float(loss), gradient, values)
        self._last = [point, *self._last[:2]]
        return point

    def parameters(self, x: np.ndarray) -> Any:
        """Returns a vector as a structure of parameters."""
        return self._form.unflatten(tf.constant(x, self._dtype))


def run(
    name: str, objective: Objective, parameters: Any, watch: Watch, options: Mapping[str, Any]
) -> Any:
    """Minimizes until the watch says stop, or no decrease is found.

    Args:
      name: One of `mlhf.minimization.methods.QUASI_NEWTON`.
      objective: The objective.
      parameters: The parameters to start from.
      watch: The watch, which gets a note of every step.
      options: The method's options.

    Returns:
      The parameters where it ended.

    Raises:
      ValueError: If an option is unknown, or there are too many parameters for a dense method.
    """
    flat = FlatObjective(objective, parameters)
    if name == "l-bfgs":
        x = _limited_memory(flat, watch, options)
    else:
        if options:
            raise ValueError(f"Expected no options for {name!r}, got {sorted(options)}.")
        if flat.start.size > LARGEST_DENSE:
            raise ValueError(
                f"Expected at most {LARGEST_DENSE} parameters for {name!r}, which keeps a dense "
                f'matrix of their number squared, got {flat.start.size}: take "l-bfgs".'
            )
        x = _dense(flat, watch, name)
    return flat.parameters(x)


def _noted(flat: FlatObjective, watch: Watch, x: np.ndarray) -> bool:
    parameters = flat.parameters(x)
    return watch.note(parameters, parameters, flat.at(x).metrics())


def _limited_memory(flat: FlatObjective, watch: Watch, options: Mapping[str, Any]) -> np.ndarray:
    """Minimizes by SciPy's L-BFGS-B, without bounds; returns the last point."""
    latest = flat.start

    def after(x: np.ndarray) -> None:
        nonlocal latest
        latest = np.array(x)
        if _noted(flat, watch, latest):
            raise Interrupted

    def value_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        point = flat.at(x)
        return point.loss, point.gradient

    left = watch.steps_left
    steps = 10**9 if left is None else left
    settings: dict[str, Any] = {"maxiter": steps, "maxfun": 10**9, "maxls": 50, "maxcor": 50}
    settings.update(ftol=0.0, gtol=0.0)
    allowed = {"maxcor", "maxls", "ftol", "gtol"}
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise ValueError(f"Expected options of l-bfgs among {sorted(allowed)}, got {unknown}.")
    settings.update(options)
    try:
        with warnings.catch_warnings():
            # An option that a version of SciPy does not know, and the end of progress.
            warnings.simplefilter("ignore")
            scipy.optimize.minimize(
                value_and_gradient,
                flat.start,
                method="L-BFGS-B",
                jac=True,
                callback=after,
                options=settings,
            )
    except Interrupted:
        return latest
    watch.status = STALLED if watch.status is None else watch.status
    return latest


def _dense(flat: FlatObjective, watch: Watch, name: str) -> np.ndarray:
    """Minimizes by BFGS or by self-scaled updates of a dense inverse Hessian.

    Self-scaled BFGS is Oren and Luenberger's; the Broyden family's member and its scaling are
    those of Al-Baali and Khalfan (2005), as Urbán, Stefanou and Pons (2025) use them for
    equations.

    Args:
      flat: The objective.
      watch: The watch, which says when to stop.
      name: The name of the update.

    Returns:
      The last point.
    """
    here = flat.at(flat.start)
    inverse = np.eye(here.x.size)
    before: float | None = None
    first = True
    while True:
        direction = -inverse @ here.gradient
        if here.gradient @ direction >= 0:
            inverse, direction = np.eye(here.x.size), -here.gradient
        found = _line_search(flat, here, direction, before)
        if found is None and not first:
            # Once more, from the steepest descent.
            inverse, direction = np.eye(here.x.size), -here.gradient
            found = _line_search(flat, here, direction, None)
        if found is None:
            watch.status = STALLED
            return here.x
        rate, there = found
        step, change = there.x - here.x, there.gradient - here.gradient
        if step @ change > 0:
            if first:
                inverse *= (step @ change) / (change @ change)
            inverse = updated(inverse, step, change, -rate * (step @ here.gradient), name)
        before, here, first = here.loss, there, False
        if _noted(flat, watch, here.x):
            return here.x


def _line_search(
    flat: FlatObjective, here: _Point, direction: np.ndarray, before: float | None
) -> tuple[float, _Point] | None:
    """Returns the rate and the point where the strong Wolfe conditions hold; None if none does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rate = scipy.optimize.line_search(
            lambda x: flat.at(x).loss,
            lambda x: flat.at(x).gradient,
            here.x,
            direction,
            here.gradient,
            here.loss,
            before,
            c1=_ARMIJO,
            c2=_CURVATURE,
            maxiter=30,
        )[0]
    if rate is None:
        return None
    there = flat.at(here.x + rate * direction)
    return (rate, there) if there.loss < here.loss else None


def updated(
    inverse: np.ndarray, step: np.ndarray, change: np.ndarray, curved: float, name: str
) -> np.ndarray:
    """Returns the next approximation H of the inverse Hessian.

    H⁺ = (H - H y yᵀ H / yᵀH y + φ v vᵀ) / τ + s sᵀ / yᵀs, with the step s, the gradient's change y
    and v = √(yᵀH y) (s / yᵀs - H y / yᵀH y).

    Args:
      inverse: H.
      step: s.
      change: y.
      curved: sᵀ H⁻¹ s.
      name: The update: `"bfgs"` has φ = τ = 1, `"self-scaled bfgs"` φ = 1 and
        τ = min(1, yᵀs / sᵀH⁻¹s), `"self-scaled broyden"` both as Al-Baali and Khalfan.

    Returns:
      H⁺.
    """
    product = inverse @ change
    ys, yhy = float(change @ step), float(change @ product)
    b, h = curved / ys, yhy / ys
    scale, share = 1.0 if name == "bfgs" else min(1.0, 1 / b), 1.0
    a = b * h - 1
    if name == "self-scaled broyden" and a > 1e-12:
        lowest = min(1.0, h * (1 - np.sqrt(a / (a + 1))))
        theta = max((lowest - 1) / a, min(1 / lowest, (1 - b) / b))
        sigma = 1 + a * theta
        share = (1 - theta) / sigma
        spread = sigma ** (-1 / max(step.size - 1, 1))
        scale = scale * min(spread, 1 / theta) if theta > 0 else min(scale * spread, sigma)
    v = np.sqrt(yhy) * (step / ys - product / yhy)
    middle = inverse - np.outer(product, product / yhy) + share * np.outer(v, v)
    return middle / scale + np.outer(step, step / ys)
