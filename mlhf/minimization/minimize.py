"""`mlhf.minimize`: an objective, parameters and a method in, the best parameters out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.structures import kind
from mlhf.minimization import methods, quasi_newton
from mlhf.minimization.growing_sample import GrowingSample, of_several_sizes
from mlhf.minimization.watch import INTERRUPTED, MESSAGES, Callback, StopRules, Watch
from mlhf.models import keras_models
from mlhf.objective import Objective
from mlhf.optimizers.protocol import complete
from mlhf.optimizers.step_arguments import as_parameters

# The share of a budget that the first of two methods gets.
_FIRST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Minimization:
    """What `mlhf.minimize` returns, after SciPy's `OptimizeResult`.

    Attributes:
      parameters: The parameters with the lowest loss; with new batches at every step, whose losses
        don't compare, the last ones.
      loss: Their loss, on the last batch.
      success: Whether it ended as asked: by its tolerance or target, or by its steps or seconds
        if neither was given.
      status: The number of what ended it.
      message: What ended it, as a sentence.
      steps: The number of steps.
      seconds: The seconds that it took, compilation included.
      history: The metrics by name, arrays with one number per step, `loss`, `gradient_norm` and
        `seconds` among them. The loss is that before a step; for quasi-Newton methods after it.
      model_state: The network's state after the last step; None if it has none.
      method: The name of the method, which tells what `"auto"` chose.
    """

    parameters: Any
    loss: float
    success: bool
    status: int
    message: str
    steps: int
    seconds: float
    history: dict[str, np.ndarray] = dataclasses.field(repr=False)
    model_state: Any = dataclasses.field(default=None, repr=False)
    method: str = ""


def minimize(
    objective: Objective | Callable[[int], Objective],
    parameters: Any,
    method: Any = "auto",
    *,
    steps: int | None = None,
    seconds: float | None = None,
    tolerance: float | None = None,
    target: float | None = None,
    callback: Callback | None = None,
    options: Mapping[str, Any] | None = None,
    sample: int | str | None = None,
    progress: bool = True,
) -> Minimization:
    """Minimizes an objective.

    Args:
      objective: The objective; or a function from a step's number, from 0, to the objective of
        that step, for new batches or points.
      parameters: The parameters to start from, a structure of floating tensors; or a built Keras
        model, which has the result's weights afterwards.
      method: The method: `"auto"`, which is `mlhf.LevenbergMarquardt` where all losses are squares
        of errors and the network has no state, else `mlhf.MartensHessianFree`; the name of an
        optimizer of the package (`"hessian-free"`, `"martens"`, `"kfac"` ...) or of Keras
        (`"adam"`, `"adamw"` ...); `"l-bfgs"`, `"bfgs"`, `"self-scaled bfgs"` or `"self-scaled
        broyden"`, which need one objective for all steps; two names, as in `"adam then l-bfgs"`, of
        which the first gets a fifth of the steps and seconds; or an optimizer, an object with
        `init` and `step`.
      steps: The largest number of steps.
      seconds: The largest number of seconds, which are looked at after each step.
      tolerance: The share of the first gradient's norm at which it stops.
      target: The loss at which it stops.
      callback: A function `(step, parameters, metrics)` called after each step, with the number of
        steps done and the metrics as numbers; a true value stops.
      options: The arguments of the method's class, such as `{"learning_rate": 1e-3}`; with two
        methods, a dictionary of these by name.
      sample: `"growing"` takes each step on a random sample of the examples, a sixteenth of them at
        first, and doubles it whenever steps begin to fit their samples better than new ones; a
        number is the number of examples to begin with. `None` takes all at every step. Least
        squares become several times faster, each size of a sample costs a compilation, and
        `tolerance` and `target` wait for all examples.
      progress: Whether a progress bar is shown.

    Returns:
      The result. Ctrl-C ends a minimization early, with the best parameters so far.

    Raises:
      ValueError: If a method or option is unknown, there is neither a limit of steps nor of
        seconds, or a quasi-Newton method is given new objectives.
      TypeError: If an argument is of the wrong kind.
    """
    parts = methods.parse(method)
    by_part = _options(method, parts, options)
    makes_batches = not isinstance(objective, Objective)
    if makes_batches and not callable(objective):
        raise TypeError(
            "Expected an mlhf.Objective or a function from a step's number to one, got "
            f"{kind(objective)}."
        )
    for part in parts:
        if isinstance(part, str) and part in methods.QUASI_NEWTON and makes_batches:
            raise ValueError(
                f"Expected one objective for all steps of {part!r}, whose line search compares "
                "losses, got a function: give objective(0), or take another method."
            )
    samples = None
    if sample is not None:
        _check_sampled(parts, makes_batches)
        samples = GrowingSample(objective, sample)  # type: ignore[arg-type]
    model = parameters if keras_models.is_model(parameters) else None
    parameters = as_parameters(keras_models.parameters_of(parameters))
    rules = StopRules(steps, seconds, tolerance, target)
    loop = _Loop(objective, parameters, model, samples)
    sizes = contextlib.nullcontext() if samples is None else of_several_sizes()
    with sizes, Watch(rules, callback, progress) as watch:
        try:
            for place, part in enumerate(parts):
                is_last = place == len(parts) - 1
                loop.run(part, by_part[place], watch, None if is_last else _FIRST_SHARE)
                if watch.status is not None:
                    break
        except KeyboardInterrupt:
            watch.status = INTERRUPTED
    result = loop.result(watch)
    if model is not None:
        keras_models.set_parameters(model, result.parameters)
        if result.model_state is not None:
            keras_models.set_model_state(model, result.model_state)
    return result


def _options(method: Any, parts: list[Any], options: Mapping[str, Any] | None) -> list[Any]:
    given = dict(options or {})
    if len(parts) == 1:
        if given and not isinstance(parts[0], str):
            raise ValueError(
                f"Expected no options with an optimizer that is made already, got {sorted(given)}."
            )
        return [given]
    by_name = {methods.parse(name)[0]: value for name, value in given.items()}
    unknown = sorted(set(by_name) - set(parts))
    if unknown:
        raise ValueError(
            f"Expected options by method, {{{parts[0]!r}: ...}}, for {method!r}, got {unknown}."
        )
    return [by_name.get(part, {}) for part in parts]


def _check_sampled(parts: list[Any], makes_batches: bool) -> None:
    """Raises ValueError for what can't be sampled."""
    for part in parts:
        if isinstance(part, str) and part in methods.QUASI_NEWTON:
            raise ValueError(
                f"Expected no sample= with {part!r}, whose line search compares losses: take "
                'another method, such as "lm".'
            )
    if makes_batches:
        raise ValueError(
            "Expected an mlhf.Objective of all examples with sample=, got a function, which "
            "chooses the examples of each step itself."
        )


class _Loop:
    """The steps of one or several methods on an objective."""

    def __init__(
        self, objective: Any, parameters: Any, model: Any, samples: GrowingSample | None
    ) -> None:
        self._objective, self._model, self._samples = objective, model, samples
        self._parameters = parameters
        self._evaluated = parameters
        self._model_state: Any = None
        self._last: Any = objective if isinstance(objective, Objective) else None
        self._ahead: Objective | None = None
        self._names: list[str] = []

    def run(self, part: Any, options: Mapping[str, Any], watch: Watch, share: float | None) -> None:
        """Takes the steps of one method; share is that of the budget, None for all that is left."""
        if part == methods.AUTO:
            self._ahead = self._at(watch.steps)
            part = methods.automatic(self._ahead)
        self._names.append(part if isinstance(part, str) else type(part).__name__)
        if isinstance(part, str) and part in methods.QUASI_NEWTON:
            self._parameters = quasi_newton.run(
                part, self._objective, self._parameters, watch, options
            )
            self._evaluated = self._parameters
            return
        if isinstance(part, str):
            part = methods.make(part, options)
        optimizer = complete(part)
        state = optimizer.init(self._parameters if self._model is None else self._model)
        is_over = watch.part(share)
        while not is_over():
            objective, samples = self._at(watch.steps), self._samples
            is_sample = samples is not None and not samples.is_whole
            if samples is not None:
                objective = samples.draw(objective)
            step = optimizer.step(objective, self._parameters, state)
            before, self._parameters, state = self._parameters, step.parameters, step.state
            self._model_state = step.model_state
            self._evaluated = optimizer.evaluation_parameters(self._parameters, state)
            if watch.note(before, self._evaluated, step.metrics, is_sample):
                return
            if samples is not None:
                samples.note(objective, step.metrics["loss"], self._parameters)

    def _at(self, step: int) -> Objective:
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        objective = self._objective
        if not isinstance(objective, Objective):
            objective = objective(step)
            if not isinstance(objective, Objective):
                raise TypeError(
                    f"Expected an mlhf.Objective from the function for step {step}, got "
                    f"{kind(objective)}."
                )
        if self._model_state is not None:
            inputs, targets, _, weights = objective.tensors
            tensors = (inputs, targets, self._model_state, weights)
            objective = objective.__tf_unflatten__(objective.static, tensors)
        self._last = objective
        return objective

    def result(self, watch: Watch) -> Minimization:
        """Returns the best of the points, or the last one, with its loss."""
        parameters, loss = self._evaluated, math.nan
        if self._last is not None:
            loss = _value(self._last, parameters)
        best, at_best = watch.best
        # Losses on different batches do not compare.
        if isinstance(self._objective, Objective) and at_best is not None and not loss <= best:
            parameters, loss = at_best, best
        status = watch.status if watch.status is not None else INTERRUPTED
        return Minimization(
            parameters,
            loss,
            watch.is_success() and math.isfinite(loss),
            status,
            MESSAGES[status],
            watch.steps,
            watch.seconds,
            watch.history(),
            self._model_state,
            " then ".join(self._names),
        )


def _value(objective: Objective, parameters: Any) -> float:
    @tf.function(autograph=False)
    def value(objective: Objective, parameters: Any) -> tf.Tensor:
        loss = objective.data_loss(parameters)
        if objective.regularizer is not None:
            loss += objective.regularizer.value(parameters)
        return loss

    return float(value(objective, parameters))
