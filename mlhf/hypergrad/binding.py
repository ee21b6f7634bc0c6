"""Makes the training that all methods run from a problem, weights and hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mlhf.hypergrad import hyperparameters as hyperparameters_module
from mlhf.hypergrad import variables
from mlhf.hypergrad.dependencies import find_dependencies
from mlhf.hypergrad.dynamics.base import check_domain
from mlhf.hypergrad.problem import Problem
from mlhf.hypergrad.training import Training
from mlhf.models import keras_models


def bind(problem: Any, weights: Any, hyperparameters: Any) -> tuple[Training, Any, Any]:
    """Returns the training for weights and hyperparameters of these shapes.

    Functions that were compiled for the same shapes before are used again.

    Args:
      problem: A `Problem`.
      weights: A structure of floating tensors, or a built Keras model; None where `initial`
        makes them.
      hyperparameters: A mapping from names to tensors, numbers, or structures of them.

    Returns:
      The training, and weights and hyperparameters as tensors.

    Raises:
      TypeError: If `problem` is not a `Problem`, or a tensor is not floating.
      ValueError: If a hyperparameter's shape fits nothing, is not finite, lies outside its
        domain, or has no influence on any outer loss; or if a loss reads a variable instead of
        the weights or hyperparameters that it is given.
    """
    check_problem(problem)
    sources = [variables.sources_of(weights), variables.sources_of(hyperparameters)]
    weights, hyper = _as_tensors(problem, weights, hyperparameters)
    key = repr(tf.nest.map_structure(lambda leaf: (leaf.shape, leaf.dtype), (weights, hyper)))
    if key not in problem.trainings:
        problem.trainings[key] = _trained(problem, weights, hyper)
    problem.trainings[key].reads.check(sources)
    for name, value in hyper.items():
        for leaf in tf.nest.flatten(value):
            if not hasattr(leaf, "numpy"):
                continue
            if not bool(tf.reduce_all(tf.math.is_finite(leaf))):
                raise ValueError(
                    f"Expected finite hyperparameters, got some of {name!r} that are not. "
                    "Lower the outer optimizer's rate, or project after each of its steps."
                )
            if name in problem.dynamics.constants:
                check_domain(problem.dynamics, name, leaf)
    return problem.trainings[key], weights, hyper


def _as_tensors(
    problem: Problem, weights: Any, hyperparameters: Any
) -> tuple[Any, hyperparameters_module.Rows]:
    if weights is not None:
        weights = keras_models.parameters_of(weights)
        weights = tf.nest.map_structure(tf.convert_to_tensor, weights)
        dtype = tf.nest.flatten(weights)[0].dtype if tf.nest.flatten(weights) else tf.float32
    elif _says_first_weights(hyperparameters):
        first = hyperparameters[hyperparameters_module.INITIAL_WEIGHTS]
        dtype = tf.convert_to_tensor(tf.nest.flatten(first)[0]).dtype
    elif problem.initial is None:
        raise ValueError(
            "Expected weights to begin with, got None; pass them, 'initial_weights' as a "
            "hyperparameter, or Problem(initial=...)."
        )
    else:
        dtype = tf.float32
    hyper = hyperparameters_module.as_tensors(hyperparameters, dtype)
    initial_weights = hyper.get(hyperparameters_module.INITIAL_WEIGHTS)
    if problem.initial is not None:
        if initial_weights is not None:
            raise ValueError("Expected either 'initial_weights' or Problem(initial=...), got both.")
        made = problem.call_initial(hyper, tf.constant(0))
        if weights is None:
            dtype = tf.nest.flatten(made)[0].dtype
            hyper = hyperparameters_module.as_tensors(hyperparameters, dtype)
        weights = tf.nest.map_structure(tf.convert_to_tensor, made)
    elif initial_weights is not None:
        weights = tf.nest.map_structure(tf.identity, initial_weights)
    return weights, hyper


def _says_first_weights(hyperparameters: Any) -> bool:
    name = hyperparameters_module.INITIAL_WEIGHTS
    return (
        isinstance(hyperparameters, Mapping)
        and name in hyperparameters
        and bool(tf.nest.flatten(hyperparameters[name]))
    )


def check_problem(problem: Any) -> None:
    """Raises TypeError if a method's first argument is not a `Problem`."""
    if not isinstance(problem, Problem):
        raise TypeError(
            "Expected a mlhf.hypergrad.Problem as the first argument, got "
            f"{type(problem).__name__}; the order is problem, weights, hyperparameters."
        )


def _trained(problem: Problem, weights: Any, hyper: Any) -> Training:
    training = Training(problem, weights, hyper)
    training.dependencies = find_dependencies(training, weights, hyper)
    return training
