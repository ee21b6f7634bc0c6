"""An optimizer's settings: numbers that may change between steps, and fixed settings.

A step may be traced inside a user's `tf.function`, where a Python number would be a constant from
then on. A number that may change is therefore a variable of the optimizer: reading it in a graph
reads its value when the graph runs, and setting it, outside or inside, holds from the next step on.
A setting that decides which operations a step consists of can't change in a graph that exists, and
is read-only.
"""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mlhf.checks.arguments import check_number


class Number:
    """A number that holds from the next step on, wherever that step is compiled.

    It may be set to a Python number, a tensor, or a TensorFlow or Keras variable, which is then
    read at every step; if it may be scheduled, also to a function of the steps taken. Outside of
    graphs the attribute reads as a Python number, or as the variable or function that was set;
    inside as a tensor. Setting it inside a `tf.function` sets it when that runs; a tensor that is
    known only then is not checked.
    """

    def __init__(
        self,
        *,
        none: float | None = None,
        optional: bool = False,
        schedule: bool = False,
        check: Callable[[Any, Any], None] | None = None,
        **bounds: float,
    ) -> None:
        """Describes a number.

        Args:
          none: The number that None stands for.
          optional: Whether it may be None, for which the step is another one.
          schedule: Whether it may be a function of the steps taken.
          check: A function of the optimizer and the value before it is set, to raise an error.
          **bounds: The bounds, as for `check_number`.
        """
        self._none, self._optional, self._bounds = none, optional, bounds
        self._schedule, self._check = schedule, check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        if optimizer is None:
            return self
        source = _sources(optimizer).get(self.name)
        if source is None or self.name in _nones(optimizer):
            return None
        if not _is_own(source):
            return source
        value = source.read_value()
        return float(value) if tf.executing_eagerly() else value

    def __set__(self, optimizer: Any, value: Any) -> None:
        if self._check is not None:
            self._check(optimizer, value)
        sources = _sources(optimizer)
        nones, before = _nones(optimizer), sources.get(self.name)
        if value is None and self._none is not None:
            nones.add(self.name)
            value = self._none
        elif value is None and self._optional:
            self._replace(optimizer, None)
            return
        else:
            nones.discard(self.name)
        if is_variable(value) or (self._schedule and is_schedule(value)):
            if is_variable(value):
                self._check_variable(value)
            if before is not value:
                self._replace(optimizer, value)
            return
        if tf.is_tensor(value) and not hasattr(value, "numpy"):
            value = tf.cast(tf.reshape(value, []), tf.float64)
        else:
            value = check_number(self.name, as_python(value), **self._bounds)
        tell_followers(optimizer, self.name, value)
        if before is not None and _is_own(before):
            before.assign(value)
        else:
            self._replace(optimizer, _new_variable(value, self.name))

    def read(self, optimizer: Any, step: Any = None) -> tf.Tensor | None:
        """Returns the number that a step uses, a tensor; None if there is none.

        Args:
          optimizer: The optimizer whose number it is.
          step: The number of steps taken; None if they are not counted.

        Raises:
          ValueError: If it is scheduled and steps are not counted.
        """
        source = _sources(optimizer).get(self.name)
        if source is not None and is_schedule(source):
            if step is None:
                raise ValueError(
                    f"Expected {self.name} to be a number here, where no steps are counted, got "
                    f"the schedule {source!r}: set {self.name} to a number first."
                )
            # With a floating n, 0.1 / (1 + n) is a schedule.
            source = source(tf.cast(step, tf.float64))
        return None if source is None else tf.convert_to_tensor(source)

    def _replace(self, optimizer: Any, source: Any) -> None:
        """Sets another source, which graphs that exist do not know."""
        sources = _sources(optimizer)
        if self.name in sources and sources[self.name] is not source:
            optimizer._check_untraced(
                self.name, "a number, None, a variable or a schedule in the place of each other"
            )
        sources[self.name] = source

    def _check_variable(self, variable: Any) -> None:
        dtype, shape = tf.as_dtype(variable.dtype), tuple(variable.shape)
        if not dtype.is_floating or shape:
            raise ValueError(
                f"Expected {self.name} to be a number or a floating variable of shape (), got a "
                f"variable of shape {shape} in {dtype.name}."
            )


class Fixed:
    """A setting that a step is built on: it reads as first set; setting it again is an error."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        if optimizer is None:
            return self
        return optimizer.__dict__["_fixed"][self.name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        fixed = optimizer.__dict__.setdefault("_fixed", {})
        if self.name in fixed:
            kind = type(optimizer).__name__
            raise AttributeError(
                f"Expected {self.name} to stay {fixed[self.name]!r}, got {value!r}: steps are "
                f"compiled for it. Make another optimizer, {kind}({self.name}=...); its steps take "
                "the parameters, and the state if its shapes are the same."
            )
        fixed[self.name] = value


def numbers_of(kind: type) -> dict[str, Number]:
    """Returns a class's numbers by name."""
    return {
        name: value
        for part in reversed(kind.__mro__)
        for name, value in vars(part).items()
        if isinstance(value, Number)
    }


def read_all(optimizer: Any, step: Any = None) -> dict[str, tf.Tensor]:
    """Returns an optimizer's numbers as tensors, without those that are None.

    Args:
      optimizer: The optimizer.
      step: The number of steps taken, for scheduled numbers.
    """
    numbers = numbers_of(type(optimizer))
    values = {name: number.read(optimizer, step) for name, number in numbers.items()}
    return {name: value for name, value in values.items() if value is not None}


def pack(optimizer: Any) -> dict[str, Any]:
    """Returns an optimizer's attributes in the form that a copy or a pickle of it keeps."""
    attributes = dict(optimizer.__dict__)
    attributes["_sources"] = {
        name: float(source.read_value()) if source is not None and _is_own(source) else source
        for name, source in _sources(optimizer).items()
    }
    attributes.pop("_followers", None)
    attributes["_nones"] = set(_nones(optimizer))
    attributes["_fixed"] = dict(attributes.get("_fixed", {}))
    return attributes


def unpack(optimizer: Any, attributes: dict[str, Any]) -> None:
    """Gives a copy the attributes of `pack`, with its own variables."""
    sources = {
        name: _new_variable(source, name) if isinstance(source, float) else source
        for name, source in attributes["_sources"].items()
    }
    optimizer.__dict__.update({**attributes, "_sources": sources})


def add_follower(optimizer: Any, follower: Any) -> None:
    """Lets a copy of an optimizer have the numbers that are set on the optimizer from now on.

    Args:
      optimizer: The optimizer.
      follower: Any object with attributes of the numbers' names; it is not kept alive.
    """
    if hasattr(optimizer, "__dict__"):
        optimizer.__dict__.setdefault("_followers", weakref.WeakSet()).add(follower)


def tell_followers(optimizer: Any, name: str, value: Any) -> None:
    """Sets a number on all followers of an optimizer."""
    for follower in list(optimizer.__dict__.get("_followers", ())):
        setattr(follower, name, value)


def is_variable(thing: Any) -> bool:
    """Returns whether an object is a TensorFlow or Keras variable."""
    # Keras before 3.7 makes variables of a class that keras.Variable is derived from.
    of_keras = hasattr(thing, "assign") and hasattr(thing, "path")
    return isinstance(thing, tf.Variable) or of_keras


def is_schedule(thing: Any) -> bool:
    """Returns whether an object is a function of the steps taken, no tensor and no variable."""
    return callable(thing) and not tf.is_tensor(thing) and not is_variable(thing)


def has_schedule(optimizer: Any) -> bool:
    """Returns whether a number of an optimizer is scheduled."""
    return any(is_schedule(source) for source in _sources(optimizer).values())


def optional_count(state: Any) -> bool:
    """Returns whether a state counts steps only if a number is scheduled."""
    return "step" in getattr(state, "_field_defaults", {})


def _sources(optimizer: Any) -> dict[str, Any]:
    return optimizer.__dict__.setdefault("_sources", {})


def _nones(optimizer: Any) -> set[str]:
    return optimizer.__dict__.setdefault("_nones", set())


def _new_variable(value: Any, name: str) -> tf.Variable:
    # In double precision, so that it reads as the number that was set.
    if tf.is_tensor(value):
        raise ValueError(
            f"Expected a number or a variable for {name} where an optimizer is made, got {value}, "
            "which is known only when the function runs: make the optimizer outside of it."
        )
    return new_variable(value, tf.float64, f"mlhf_setting_{name}")


# AutoGraph can't read the code of threads, and would warn.
@tf.autograph.experimental.do_not_convert
def new_variable(value: Any, dtype: tf.DType, name: str) -> tf.Variable:
    """Returns a variable that belongs to no graph, whatever function is being traced.

    A function that is traced again refuses variables that are made then, in `tf.init_scope`, too.
    In another thread nothing is being traced.

    Args:
      value: The value, a number or an array.
      dtype: The variable's dtype.
      name: The variable's name.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(
            lambda: tf.Variable(value, trainable=False, dtype=dtype, name=name)
        ).result()


def _is_own(source: Any) -> bool:
    return isinstance(source, tf.Variable) and source.name.startswith("mlhf_setting_")


def as_python(value: Any) -> Any:
    """Returns a scalar tensor or array as a Python number; anything else as it is."""
    if tf.is_tensor(value) or type(value).__module__ == "numpy":
        if getattr(value, "shape", None) == ():
            value = value.numpy() if tf.is_tensor(value) else value
            return value.item() if hasattr(value, "item") else value
    return value
