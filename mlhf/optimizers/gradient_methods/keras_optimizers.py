"""What a Keras optimizer expects of the variables that it moves, met by stand-ins for a model's.

It may know them by name (weight decay that leaves some out, Muon's and `OptimizerMap`'s patterns),
scale the loss and average the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from mlhf import keras_internals


def prepared(optimizer: Any) -> Any:
    """Returns the optimizer that moves the weights, after checking for what a step can't do.

    Args:
      optimizer: A `keras.optimizers.Optimizer`.

    Returns:
      The optimizer, or the one inside a `LossScaleOptimizer`: its scale, a power of two, would be
      multiplied in and divided out again, which changes nothing outside float16.

    Raises:
      ValueError: If it keeps averages that only the end of `fit` writes into the weights.
    """
    import keras

    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if optimizer.use_ema and not optimizer.ema_overwrite_frequency:
        raise ValueError(
            f"Expected an optimizer that is done with each step, got {optimizer.name!r} with "
            "use_ema=True, whose averages fit writes into the weights when it ends; give "
            "ema_overwrite_frequency= too, or average the parameters in your loop."
        )
    return optimizer


def variables_like(leaves: Sequence[tf.Tensor], paths: Sequence[str]) -> list[Any]:
    """Returns Keras variables that stand for parameters, with their names and paths.

    Args:
      leaves: The parameters' values.
      paths: Their paths, with slashes; a Keras model's are its `variable.path`.
    """
    return [_variable(leaf, path) for leaf, path in zip(leaves, paths, strict=True)]


def _variable(leaf: tf.Tensor, path: str) -> Any:
    import keras

    *scopes, name = path.split("/")
    dtype = leaf.dtype.name
    try:
        with contextlib.ExitStack() as stack:
            for scope in filter(None, scopes):
                stack.enter_context(keras.name_scope(scope))
            return keras.Variable(leaf, dtype=dtype, name=name or None)
    except ValueError:  # not a name that TensorFlow takes as a scope
        return keras.Variable(leaf, dtype=dtype, name=path.replace("/", ".") or None)


def leave_out_of_decay(
    optimizer: Any, variables: Sequence[Any], paths: Sequence[str], model: Any
) -> None:
    """Lets an optimizer's weight decay leave out variables, as `exclude_from_weight_decay` asked.

    Args:
      optimizer: The optimizer, not built yet.
      variables: The variables that stand for the parameters.
      paths: The parameters' paths.
      model: The Keras model whose parameters they are; None if only their values are known.

    Raises:
      ValueError: If a model's variables were named, and the model is unknown.
    """
    if model is None:
        if keras_internals.has_undecayed_variables(optimizer):
            raise ValueError(
                "Expected the model whose variables exclude_from_weight_decay(var_list=...) names, "
                "got parameters alone: call init(model), or name them by var_names=."
            )
        return
    originals = {variable.path: variable for variable in model.trainable_variables}
    for variable, path in zip(variables, paths, strict=True):
        keras_internals.decay_like(optimizer, variable, originals[path])


def scaled(optimizer: Any, gradient: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the gradients of the scaled loss (`loss_scale_factor=`), which `apply` expects."""
    return [optimizer.scale_loss(part) for part in gradient]


@contextlib.contextmanager
def without_replicas(optimizer: Any) -> Iterator[None]:
    """Leaves out Keras' sum of gradients over replicas where there is one replica.

    TensorFlow registers a gradient for that sum, under a new name in each graph and for good, and
    with it keeps the whole graph.

    Args:
      optimizer: The optimizer whose `apply` is traced inside the block.
    """
    if tf.distribute.has_strategy():
        yield
        return
    with keras_internals.without_sum_over_replicas(optimizer):
        yield
