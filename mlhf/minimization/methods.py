"""Methods by name: the package's optimizers, Keras', and those of SciPy's kind."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

import custom_op
from mlhf.checks.structures import kind
from mlhf.objective import Objective
from mlhf.optimizers.gradient_methods.first_order import FirstOrder

AUTO = "auto"
# Methods that evaluate the objective as often as they want to, on one batch.
QUASI_NEWTON = ("l-bfgs", "bfgs", "self-scaled bfgs", "self-scaled broyden")
_ALIASES = {
    "hf": "hessianfree",
    "lm": "levenbergmarquardt",
    "martens": "martenshessianfree",
    "lbfgs": "l-bfgs",
    "lbfgsb": "l-bfgs",
    "bfgs": "bfgs",
    "selfscaledbfgs": "self-scaled bfgs",
    "ssbfgs": "self-scaled bfgs",
    "selfscaledbroyden": "self-scaled broyden",
    "ssbroyden": "self-scaled broyden",
}


def parse(method: Any) -> list[Any]:
    """Returns the parts of a method: canonical names, or the optimizer that it is.

    Args:
      method: A name, two names with "then" between them, or an optimizer.

    Returns:
      One part or several.

    Raises:
      ValueError: If a name is unknown.
      TypeError: If it is neither a name nor an optimizer.
    """
    if not isinstance(method, str):
        if isinstance(method, type) or not all(hasattr(method, n) for n in ("init", "step")):
            raise TypeError(
                "Expected a method as a name or an optimizer with init and step, got "
                f"{kind(method)}."
            )
        return [method]
    if method == AUTO:
        return [AUTO]
    known = names()
    parts = []
    for part in re.split(r"\bthen\b", method):
        plain = _plain(part)
        plain = _ALIASES.get(plain, plain)
        if plain not in known:
            raise ValueError(
                f"Expected {AUTO!r} or a method among {sorted(known.values())}, got {method!r}."
            )
        parts.append(plain)
    return parts


def automatic(objective: Objective) -> str:
    """Returns the name of the method that suits an objective.

    Args:
      objective: The objective.
    """
    squares = custom_op.losses.SquaredError, custom_op.losses.MeanSquaredError
    terms = [term.objective for term in objective.terms]
    is_least_squares = all(isinstance(term.loss, squares) for term in terms)
    has_state = any(tf.nest.flatten(term.model_state) for term in terms)
    return "levenbergmarquardt" if is_least_squares and not has_state else "martenshessianfree"


def names() -> dict[str, str]:
    """Returns the known methods: canonical names, and how they are written."""
    known = {name: name for name in QUASI_NEWTON}
    known.update((_plain(name), name) for name in (*_keras(), *_own()))
    return known


def make(name: str, options: Mapping[str, Any]) -> Any:
    """Returns a new optimizer.

    Args:
      name: A canonical name, not one of `QUASI_NEWTON`.
      options: The arguments of its class.

    Raises:
      ValueError: If the class has no such argument.
    """
    own = {_plain(each): made for each, made in _own().items()}
    made = own.get(name) or {_plain(each): made for each, made in _keras().items()}[name]
    allowed = inspect.signature(made).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in allowed.values())
    unknown = sorted(set(options) - set(allowed))
    if unknown and not takes_any:
        raise ValueError(f"Expected options of {name} among {sorted(allowed)}, got {unknown}.")
    if name in own:
        return made(**options)
    return FirstOrder(lambda: made(**options))


def _own() -> dict[str, Any]:
    import mlhf

    classes = {name: getattr(mlhf, name) for name in mlhf.__all__}
    return {
        name: made
        for name, made in classes.items()
        if isinstance(made, type)
        and made is not FirstOrder
        and hasattr(made, "init")
        and hasattr(made, "step")
    }


def _keras() -> dict[str, Any]:
    import keras

    base = keras.optimizers.Optimizer
    found = {}
    for name in dir(keras.optimizers):
        made = getattr(keras.optimizers, name)
        if isinstance(made, type) and issubclass(made, base) and made is not base:
            found[name] = made
    return {name: made for name, made in found.items() if name != "LossScaleOptimizer"}


def _plain(name: str) -> str:
    """Returns a name in lower case without spaces and hyphens."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
