"""`compile` gives a Keras model the training step of an optimizer of this package."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlhf.checks.networks import check_regularizer
from mlhf.distribute import DataParallel
from mlhf.keras import losses, optimizer_table
from mlhf.keras.optimizer import Optimizer, refuse
from mlhf.keras.train_function import TrainFunction
from mlhf.keras.training_step import TrainingStep
from mlhf.models import keras_contracts, keras_models
from mlhf.objective import Regularizer
from mlhf.optimizers.gradient_methods.first_order import FirstOrder

_METHOD = "make_train_function"


def compile(
    model: Any,
    optimizer: Any = "mlhf",
    loss: Any = None,
    loss_weights: Any = None,
    metrics: Any = None,
    weighted_metrics: Any = None,
    run_eagerly: bool = False,
    steps_per_execution: int = 1,
    jit_compile: bool | str = "auto",
    auto_scale_loss: bool = True,
    *,
    regularizer: Regularizer | None = None,
    logs: bool | Collection[str] = (),
    steps: int | None = None,
    **unknown: Any,
) -> None:
    """Compiles a Keras model to be trained by an optimizer of this package.

    The model stays what it is. Afterwards `fit`, `evaluate`, `predict`, callbacks and saving are
    Keras' own; `mlhf.keras.load_model` loads the saved model to go on training, and
    `model.compile("adam")` takes the step away again. A step of `fit` is the step that
    `optimizer.step` takes in a loop of one's own, to the last bit.

    Args:
      model: A `keras.Model`, built or not.
      optimizer: A name (`mlhf.keras.optimizer_names()`; `"mlhf"` is the shipped meta-optimizer
        that knows the model's layers), or an optimizer, of which the model gets a copy: numbers set
        on the optimizer later hold for the model too, those that callbacks set hold for the model
        only.
      loss: The losses, as for `model.compile`. Cross entropies and squared errors have curvature in
        closed form; any other differentiable loss per example an automatic Hessian.
      loss_weights: As for `model.compile`.
      metrics: As for `model.compile`.
      weighted_metrics: As for `model.compile`.
      run_eagerly: Whether steps run without a `tf.function` around them, to look inside.
      steps_per_execution: The number of steps between callbacks.
      jit_compile: Whether XLA compiles the whole step; `"auto"` for no: the optimizer's own
        `jit_compile` says what XLA compiles.
      auto_scale_loss: As for `model.compile`; it concerns float16, which is refused.
      regularizer: A penalty such as `mlhf.L2(1e-4)`, besides those of the layers
        (`kernel_regularizer=keras.regularizers.L2(...)`), which count as they do in Keras.
      logs: The optimizer's numbers that become logs, such as `["damping", "cg_iterations"]`, as
        they were in the last step; True for all.
      steps: The number of steps of the whole training, epochs times batches, for an optimizer by
        name that needs it: `"curvature_muon"` and `"meta_muon"`, whose steps shrink to 0 there.
        `"mlhf"` with it is `"meta_muon"`, which has nothing to tune.
      **unknown: Arguments of Keras' optimizers (`clipnorm`), which are refused.

    Raises:
      ValueError: If the model asks for something that would be left out, or a name is unknown.
      TypeError: If an argument is of another type, or has no meaning here.
    """
    keras_models.check_model(model)
    keras_contracts.check(model)
    refuse(unknown, "mlhf.keras.compile")
    check_regularizer(regularizer)
    if loss is None:
        raise ValueError(
            "Expected a loss to train with, got None: mlhf.keras.compile(model, optimizer, "
            'loss="sparse_categorical_crossentropy"); penalties alone are no loss.'
        )
    for one in _flat(loss):
        if one is not None and not (isinstance(one, str) and one.lower() in ("crossentropy", "ce")):
            losses.resolve(one)
    if isinstance(optimizer, Optimizer):
        own = optimizer
        if steps is not None:
            raise ValueError(f"Expected no steps= with an optimizer of a model, got {steps!r}.")
    else:
        found = optimizer_table.find(optimizer, model, steps)
        _check_strategy(model.distribute_strategy, found, jit_compile)
        own = Optimizer(found)
    own.attach(model)
    own.regularizer = regularizer if regularizer is not None else own.regularizer
    if logs:
        own.logs = True if isinstance(logs, bool) else list(logs)
    model.compile(
        optimizer=own,
        loss=loss,
        loss_weights=loss_weights,
        metrics=metrics,
        weighted_metrics=weighted_metrics,
        run_eagerly=run_eagerly,
        steps_per_execution=steps_per_execution,
        jit_compile=False if jit_compile == "auto" else jit_compile,
        auto_scale_loss=auto_scale_loss,
    )
    if model.built and model.trainable_variables:
        with model.distribute_strategy.scope():
            own.build(model.trainable_variables)
    _install(model, own)


def load_model(
    path: str | Path, custom_objects: Any = None, compile: bool = True, safe_mode: bool = True
) -> Any:
    """Loads a model that was saved after `mlhf.keras.compile`, to go on training it.

    Args:
      path: The `.keras` file.
      custom_objects: As for `keras.models.load_model`.
      compile: Whether the model gets its training step and the optimizer's state back.
      safe_mode: As for `keras.models.load_model`.

    Returns:
      The model. One that was compiled with an optimizer of Keras is as Keras loads it.
    """
    import keras

    model = keras.models.load_model(path, custom_objects, compile, safe_mode)
    own = getattr(model, "optimizer", None) if compile else None
    if isinstance(own, Optimizer):
        own.attach(model)
        _install(model, own)
    return model


def _install(model: Any, own: Optimizer) -> None:
    """Gives a model the training step, until it is compiled with another optimizer."""
    reference: Any = weakref.ref(model)

    def make_train_function(force: bool = False) -> Any:
        model = reference()
        if model.optimizer is not own:
            delattr(model, _METHOD)
            return model.make_train_function(force=force)
        _check_strategy(model.distribute_strategy, own.optimizer, model.jit_compile)
        if own.built:
            own.prepare()
        if model.train_function is None or force:
            model.train_function = TrainFunction(model, TrainingStep(model, own))
        return model.train_function

    setattr(model, _METHOD, make_train_function)


def _check_strategy(strategy: Any, optimizer: Any, jit_compile: Any) -> None:
    """Raises ValueError or TypeError for what `fit` can't do on several replicas."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return
    # A MultiWorkerMirroredStrategy is none of these.
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        raise ValueError(
            "Expected a model on one device or under a MirroredStrategy, got one under "
            f"{type(strategy).__name__} with {replicas} replicas, where Keras' own fit does not "
            "run either: train it in a loop with mlhf.distribute.DataParallel."
        )
    if isinstance(optimizer, FirstOrder):
        raise ValueError(
            f"Expected an optimizer of this package for {replicas} replicas, got a Keras "
            "optimizer, which adds up gradients itself: compile the model with model.compile."
        )
    if jit_compile is True:
        raise ValueError(
            f"Expected jit_compile=False for {replicas} replicas, got True: the collectives "
            "between devices are outside of XLA."
        )
    DataParallel(strategy, optimizer)


def _flat(loss: Any) -> list[Any]:
    if isinstance(loss, dict):
        return [one for part in loss.values() for one in _flat(part)]
    if isinstance(loss, (list, tuple)):
        return [one for part in loss for one in _flat(part)]
    return [loss]
