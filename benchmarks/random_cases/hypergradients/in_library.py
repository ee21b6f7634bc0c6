"""A random case as a `Problem` of the library, and every method that is exact for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.random_cases.hypergradients.generator import OWN, REVERSIBLE, Case
from benchmarks.random_cases.hypergradients.reference import EPSILON_ROOT
from mlhf import hypergrad

D = tf.float64
FUNCTIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "half_square": lambda z: z**2 / 2,
    "log_cosh": lambda z: tf.nn.softplus(2 * z) - z,
    "softplus": tf.nn.softplus,
    "sine": tf.sin,
    "tanh": tf.tanh,
    "bell": lambda z: tf.exp(-(z**2)),
}
SOLVERS = {
    "conjugate gradient": lambda: hypergrad.linear_solvers.ConjugateGradient(tolerance=1e-12),
    "normal equations": lambda: hypergrad.linear_solvers.NormalEquations(tolerance=1e-13),
    "fixed point": lambda: hypergrad.linear_solvers.FixedPoint(800, tolerance=1e-10),
    "neumann": lambda: hypergrad.linear_solvers.Neumann(800),
}


def structure(case: Case, vector: Any) -> dict[str, tf.Tensor]:
    """Returns a vector [P] as the weights, with one leaf per group."""
    pieces = tf.split(tf.convert_to_tensor(vector, D), case.sizes)
    return {f"leaf{i}": piece for i, piece in enumerate(pieces)}


def problem(case: Case) -> hypergrad.Problem:
    """Returns the case as a problem."""
    rows, valid = tf.constant(case.rows[0]), tf.constant(case.rows[1])

    def fixed(h: dict[str, tf.Tensor], name: str) -> tf.Tensor:
        return h[name] if name in h else tf.constant(case.fixed[name])

    def terms(functions: list[str], z: tf.Tensor) -> list[tf.Tensor]:
        return [FUNCTIONS[f](x) for f, x in zip(functions, tf.unstack(z), strict=True)]

    def train_loss(w: dict[str, tf.Tensor], h: dict[str, tf.Tensor], step: tf.Tensor) -> tf.Tensor:
        vector = tf.concat(list(w.values()), 0)
        z = tf.linalg.matvec(tf.gather(rows, step), vector) - fixed(h, "targets")
        loss = tf.reduce_sum(fixed(h, "data") * tf.stack(terms(case.functions[0], z)))
        l2 = fixed(h, "l2")
        if l2.shape.rank == 0:
            return loss + l2 * tf.reduce_sum(vector**2)
        return loss + tf.add_n(
            [l2[i] * tf.reduce_sum(leaf**2) for i, leaf in enumerate(w.values())]
        )

    def valid_loss(w: dict[str, tf.Tensor], h: dict[str, tf.Tensor]) -> tf.Tensor:
        vector = tf.concat(list(w.values()), 0)
        z = tf.linalg.matvec(valid, vector) - tf.constant(case.targets)
        return tf.add_n(terms(case.functions[1], z)) + fixed(h, "kappa") * vector[0]

    noise = case.fixed.get("initial_weights")
    scaled = case.start == "scale"
    return hypergrad.Problem(
        train_loss,
        valid_loss,
        dynamics=dynamics(case),
        steps=case.steps,
        schedules=case.schedules,
        initial=(lambda h: structure(case, h["scale"] * noise)) if scaled else None,
    )


def dynamics(case: Case) -> hypergrad.Dynamics:
    """Returns the case's dynamics, with the fixed hyperparameters as constants."""
    constants: dict[str, Any] = {
        name: float(case.fixed[name].ravel()[0])
        for name in OWN
        if name in case.fixed and name in _OWN_OF.get(case.kind, ("learning_rate", "momentum"))
    }
    if case.kind == "gd":
        return hypergrad.GradientDescent(**constants)
    if case.kind == "adam":
        return hypergrad.Adam(**constants, epsilon_root=EPSILON_ROOT)
    return hypergrad.Momentum(**constants, form=case.kind, nesterov=case.nesterov)


_OWN_OF = {"gd": ("learning_rate",), "adam": ("learning_rate", "beta1", "beta2")}


def hyperparameters(case: Case) -> dict[str, Any]:
    """Returns the hyperparameters to differentiate, in the library's form."""
    return {
        name: structure(case, value) if name.startswith("initial_") else tf.constant(value)
        for name, value in case.hyper.items()
    }


def weights(case: Case) -> Any:
    """Returns the initial weights; None if a hyperparameter determines them."""
    return structure(case, case.fixed["initial_weights"]) if case.start == "given" else None


def as_arrays(gradient: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a hypergradient of the library in the reference's form."""
    return {
        name: np.concatenate([np.ravel(leaf) for leaf in value.values()])
        if isinstance(value, dict)
        else np.asarray(value)
        for name, value in gradient.items()
    }


def exact_methods(case: Case) -> dict[str, Callable[..., hypergrad.Result]]:
    """Returns the methods that are exact for a case, by name, as functions of the problem."""

    def method(
        function: Callable[..., hypergrad.Result], **options: Any
    ) -> Callable[..., hypergrad.Result]:
        return lambda problem: function(problem, weights(case), hyperparameters(case), **options)

    stay = {"update": lambda hyper, gradient: hyper, "every": case.steps}
    methods = {
        "reverse": method(hypergrad.reverse),
        "checkpoints": method(hypergrad.reverse, storage="checkpoints"),
        "disk": method(hypergrad.reverse, storage="disk"),
        "forward": method(hypergrad.forward),
        "forward, a few columns at a time": method(hypergrad.forward, together=2),
        "truncated": method(hypergrad.truncated, window=case.steps),
        "rtho": method(hypergrad.rtho, **stay),
    }
    line = case.kind in (*REVERSIBLE, "gd") and not case.nesterov
    if case.kind in REVERSIBLE and not case.nesterov:
        methods["reversible"] = method(hypergrad.reversible)
    if line and case.steps == 1 and "initial_velocity" not in case.hyper:
        # A training of one step is a straight line.
        methods["drmad"] = method(hypergrad.drmad, points=1, betas=[0.0])
    return methods
