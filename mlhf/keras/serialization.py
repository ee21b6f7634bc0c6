"""Optimizers as dictionaries that JSON can hold, in the file of a saved Keras model."""

from __future__ import annotations

import base64
import copy
import importlib
import inspect
import numbers
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import mlhf
from mlhf import keras_internals
from mlhf.checks.structures import kind
from mlhf.optimizers.gradient_methods import FirstOrder
from mlhf.optimizers.settings import as_python, is_schedule, is_variable

_REMEDY = (
    "compile with mlhf.keras.compile anew after loading (model.save(path, include_optimizer=False))"
)


def to_config(optimizer: Any, learning_rate: float | None) -> dict[str, Any]:
    """Returns the class and the settings of an optimizer.

    Args:
      optimizer: The optimizer.
      learning_rate: The value of its learning rate if a variable holds it.

    Raises:
      ValueError: If a setting can't be written down, such as a function.
    """
    import keras

    own = type(optimizer)
    config: dict[str, Any] = {"module": own.__module__, "class_name": own.__name__}
    if isinstance(optimizer, FirstOrder):
        config["optimizer"] = keras.saving.serialize_keras_object(optimizer.keras_optimizer)
        config["settings"] = {"jit_compile": optimizer.jit_compile}
        return config
    if isinstance(optimizer, mlhf.MetaHessianFree):
        settings = {name: getattr(optimizer.rule, name) for name in type(optimizer.rule).names()}
        names = ("learning_rate", "damping", "detailed", "jit_compile")
        settings.update((name, getattr(optimizer, name)) for name in names)
        if learning_rate is not None:
            settings["learning_rate"] = learning_rate
        if optimizer.weights is not None:
            config["file"] = _file_of(optimizer)
    else:
        settings = _settings(optimizer, learning_rate)
    config["settings"] = {name: to_json(name, value, own) for name, value in settings.items()}
    return config


def from_config(config: dict[str, Any]) -> Any:
    """Returns the optimizer that `to_config` described.

    Raises:
      ValueError: If its class is not known here.
    """
    import keras

    own = getattr(importlib.import_module(_module(config)), config["class_name"], None)
    if not isinstance(own, type):
        raise ValueError(
            f"Expected an optimizer of {config['module']}, found none named "
            f"{config['class_name']!r}: another version of the package saved the model."
        )
    settings = {name: from_json(value) for name, value in config["settings"].items()}
    if own is FirstOrder:
        inside = keras.saving.deserialize_keras_object(config["optimizer"])
        return FirstOrder(inside, **settings)
    if "file" in config:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimizer.npz"
            path.write_bytes(base64.b64decode(config["file"]))
            return mlhf.MetaHessianFree.from_pretrained(path, **settings)
    return own(**settings)


def copy_of(optimizer: Any) -> Any:
    """Returns an optimizer with the same settings that compiles steps of its own.

    Args:
      optimizer: An optimizer of this package, or an object with `init` and `step`.
    """
    import keras

    if isinstance(optimizer, FirstOrder):
        inside = optimizer.keras_optimizer
        if keras_internals.has_exclusions(inside):
            return optimizer
        inside = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(inside))
        return FirstOrder(inside, optimizer.jit_compile)
    return copy.copy(optimizer)


def _settings(optimizer: Any, learning_rate: float | None) -> dict[str, Any]:
    """Returns the constructor's arguments, read from the attributes of their names."""
    settings = {}
    for name, parameter in inspect.signature(type(optimizer)).parameters.items():
        if not hasattr(optimizer, name):
            if parameter.default is inspect.Parameter.empty:
                raise ValueError(
                    f"Expected an optimizer whose attributes say how it was made, got {optimizer!r}"
                    f" without {name!r}, which can't be saved with a model: {_REMEDY}."
                )
            continue
        settings[name] = getattr(optimizer, name)
    if learning_rate is not None:
        settings["learning_rate"] = learning_rate
    return settings


def to_json(name: str, value: Any, own: type) -> Any:
    """Returns a setting as JSON can hold it.

    Args:
      name: The setting's name, for messages.
      value: The setting.
      own: The class whose setting it is, for messages.

    Raises:
      ValueError: If it can't be written down.
    """
    import keras

    value = as_python(value.value if is_variable(value) and hasattr(value, "path") else value)
    if is_variable(value):
        value = float(value.numpy())
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Number):
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(name, part, own) for part in value]
    if isinstance(value, dict):
        return {str(key): to_json(name, part, own) for key, part in value.items()}
    if is_schedule(value) and isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return {"keras": keras.saving.serialize_keras_object(value)}
    if type(value).__module__.startswith("mlhf."):
        config = {"module": type(value).__module__, "class_name": type(value).__name__}
        return {"mlhf": {**config, "settings": _packed_settings(name, value)}}
    raise ValueError(
        f"Expected settings of {own.__name__} that a file can hold, got {name}={kind(value)}: "
        f"{_REMEDY}."
    )


def _packed_settings(name: str, value: Any) -> dict[str, Any]:
    return {key: to_json(name, part, type(value)) for key, part in _settings(value, None).items()}


def from_json(value: Any) -> Any:
    """Returns the setting that `to_json` wrote."""
    import keras

    if isinstance(value, dict) and set(value) == {"keras"}:
        return keras.saving.deserialize_keras_object(value["keras"])
    if isinstance(value, dict) and set(value) == {"mlhf"}:
        return from_config(value["mlhf"])
    return value


def _module(config: dict[str, Any]) -> str:
    module: str = config["module"]
    if module.partition(".")[0] != "mlhf":
        raise ValueError(
            f"Expected an optimizer of mlhf in the file of a model, got {module}."
            f"{config['class_name']}: load the model with compile=False, and compile it with "
            "mlhf.keras.compile."
        )
    return module


def _file_of(optimizer: mlhf.MetaHessianFree) -> str:
    """Returns the file of learned weights as text."""
    # Files do not have a schedule.
    optimizer = copy.copy(optimizer)
    optimizer.learning_rate = 1.0
    with tempfile.TemporaryDirectory() as folder:
        path = optimizer.save(Path(folder) / "optimizer.npz")
        return base64.b64encode(np.fromfile(path, np.uint8).tobytes()).decode()
