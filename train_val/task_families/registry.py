"""Families of networks by name, and tasks as text: `mlp:width=64:depth=2:data=digits`."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlhf.checks.arguments import check_number
from train_val.problems import array_problem, equation_problem, image_problems
from train_val.problems.array_problem import ArrayTask
from train_val.problems.equation_problem import Equation
from train_val.problems.problem import Problem

Build = TypeVar("Build", bound=Callable[..., Any])

_FAMILIES: dict[str, Callable[..., Any]] = {}
# Functions that return data, loss and network together.
_TASKS: dict[str, Callable[..., ArrayTask | Equation]] = {}
# Settings that every family has.
COMMON = ("data", "batch_size", "weight_decay", "split")


def family(build: Build) -> Build:
    """Registers a function as a family of tasks, under its own name.

    Args:
      build: A function `(shape, classes, seed=0, **settings)` that returns a built Keras model with
        logits as its output: `shape` is an image's [height, width, channels], the initial weights
        depend on the seed alone, and the settings have defaults.

    Returns:
      The function, unchanged.

    Raises:
      ValueError: If its arguments are different, or another family has its name.
    """
    name = build.__name__
    arguments = list(inspect.signature(build).parameters.values())
    first = [argument.name for argument in arguments[:3]]
    open_ended = [a.name for a in arguments[2:] if a.default is inspect.Parameter.empty]
    if first != ["shape", "classes", "seed"] or open_ended:
        raise ValueError(
            f"Expected {name}(shape, classes, seed=0, ...) with a default for every other "
            f"argument, got {name}{inspect.signature(build)}."
        )
    _check_settings(name, arguments[3:], arguments)
    _check_new(build)
    _FAMILIES[name] = build
    return build


def task(build: Build) -> Build:
    """Registers a function as a family of tasks with data and a loss of its own.

    Args:
      build: A function of settings with defaults, numbers or words, that returns an `ArrayTask` or
        an `Equation`.

    Returns:
      The function, unchanged.

    Raises:
      ValueError: If its arguments are different, or another family has its name.
    """
    arguments = list(inspect.signature(build).parameters.values())
    _check_settings(build.__name__, arguments, arguments)
    _check_new(build)
    _TASKS[build.__name__] = build
    return build


def _check_settings(
    name: str, settings: list[inspect.Parameter], arguments: list[inspect.Parameter]
) -> None:
    others = [a.name for a in settings if not isinstance(a.default, (bool, int, float, str))]
    if others:
        raise ValueError(
            f"Expected settings of {name} whose defaults are numbers, words, True or False, as a "
            f"line of text gives them; got others: {others}."
        )
    taken = {argument.name for argument in arguments} & set(COMMON)
    if taken:
        raise ValueError(f"Expected settings other than {list(COMMON)}, got {sorted(taken)}.")


def _check_new(build: Callable[..., Any]) -> None:
    known = {**_FAMILIES, **_TASKS}.get(build.__name__)
    if known is not None and known.__code__.co_filename != build.__code__.co_filename:
        raise ValueError(f"There is a family {build.__name__} already: give this one another name.")


def names() -> list[str]:
    """Returns the names of all families."""
    return sorted({**_FAMILIES, **_TASKS})


def make(text: str, **common: Any) -> Problem:
    """Returns a task with its images, from a text such as `mlp:width=64:depth=2:data=digits`.

    Args:
      text: The name of a family, then settings, each after a colon: those of its function, and
        `data`, `batch_size`, `weight_decay`, `split` as for `image_problems.make`; a family with
        data of its own (`task`) has no `data` and `split`.
      **common: Further arguments of `image_problems.of_network`; the text overrides them.

    Returns:
      The problem; its `task` is for `mlhf.meta_train`.

    Raises:
      ValueError: If the name, a setting or a value is not understood, or `data_format` is
        channels_first.
      DataError: If the data can't be read.
    """
    name, *parts = text.split(":")
    if name not in names():
        raise ValueError(f"Expected a family of tasks among {names()}, got {name!r}.")
    own = _TASKS.get(name)
    build = _FAMILIES[name] if own is None else own
    parameters = list(inspect.signature(build).parameters.items())[3 if own is None else 0 :]
    defaults = {key: parameter.default for key, parameter in parameters}
    kinds: dict[str, Any] = {**defaults, "batch_size": 1, "weight_decay": 0.0}
    if own is None:
        kinds.update(data="", split="")
    given: dict[str, Any] = {}
    for part in parts:
        key, sign, value = part.partition("=")
        if not sign or key not in kinds or key in given:
            raise ValueError(
                f"Expected settings among {sorted(kinds)}, each once, as in "
                f"{name}:{sorted(kinds)[0]}=..., got {part!r} in {text!r}."
            )
        given[key] = _typed(key, value, kinds[key], text)
    settings = {**defaults, **{key: given.pop(key) for key in list(given) if key in defaults}}
    shown = ", ".join(f"{key} {value}" for key, value in settings.items())
    title = f"{name} ({shown})" if shown else name
    if own is not None:
        return _of_own(own(**settings), name, title, {**common, **given})
    arguments = {"data": "digits", **common, **given}
    # A family builds for channels last only, even on a GPU.
    if arguments.setdefault("data_format", "channels_last") == "channels_first":
        raise ValueError(
            "Expected data_format=channels_last, which families of tasks are built for, got "
            "channels_first."
        )
    arguments["data_format"] = "channels_last"
    return image_problems.of_network(
        functools.partial(build, **settings),
        name,
        title=title,
        **arguments,
    )


def _of_own(made: Any, name: str, title: str, arguments: dict[str, Any]) -> Problem:
    """Returns the problem of a task with data of its own, which has no use for `data` and such."""
    if not isinstance(made, (ArrayTask, Equation)):
        raise ValueError(f"Expected {name} to return an ArrayTask or Equation, got {made!r}.")
    used = {
        key: arguments[key] for key in ("batch_size", "weight_decay", "seed") if key in arguments
    }
    if isinstance(made, Equation):
        return equation_problem.of_equation(made, name, title=title, **used)
    return array_problem.of_arrays(made, name, title=title, **used)


def make_all(text: str, **common: Any) -> list[Problem]:
    """Returns the tasks of a list separated by commas, a mixture for `mlhf.meta_train`."""
    problems = [make(part.strip(), **common) for part in text.split(",") if part.strip()]
    if not problems:
        raise ValueError(f"Expected tasks such as {names()}, got {text!r}.")
    return problems


def file_digest(path: str | Path) -> str:
    """Returns a digest that tells a file of families from an earlier one with the same names."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def load_file(path: str | Path) -> None:
    """Runs a Python file that defines families.

    Args:
      path: The file.

    Raises:
      ValueError: If there is no such file, or it can't be run.
    """
    path = Path(path).resolve()
    name = f"_task_families_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"Expected a Python file with families of tasks, found none at {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} could not be run ({type(error).__name__}: {error}).") from error


def problem_of(arguments: Mapping[str, Any]) -> Problem:
    """Returns the problem that a structure of JSON describes, in any process.

    Args:
      arguments: The arguments of `image_problems.make`, with `task`, a text as for `make`, instead
        of `name` if there is one; also `task_file`, a file to load first, and `train_sample` and
        `test_sample` of `Problem`.
    """
    import dataclasses

    rest = dict(arguments)
    samples = {name: rest.pop(name, None) for name in ("train_sample", "test_sample")}
    file, task = rest.pop("task_file", None), rest.pop("task", None)
    if file is not None:
        load_file(file)
    if task is not None:
        for name in ("name", "resnet_size"):
            rest.pop(name, None)
        problem = make(task, **rest)
    else:
        problem = image_problems.make(**rest)
    return dataclasses.replace(problem, **samples)


def _typed(key: str, value: str, like: Any, text: str) -> Any:
    if isinstance(like, str):
        return value
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[value.lower()]
        number = type(like)(value)
        if isinstance(number, float):
            check_number(key, number)
    except (KeyError, ValueError, TypeError):
        raise ValueError(
            f"Expected {key} to be a {type(like).__name__} like {like}, got {value!r} in {text!r}."
        ) from None
    return number
