"""Reads optimizers from lines of text such as `hf:cg=2:damping=0.1/1/10`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlhf
from mlhf.meta_optimizer.rule import Rule
from train_val.cli.specification_checks import ALIASES, SCHEDULED, TEXTS, check_setting
from train_val.comparison.makers import SETTABLE, Maker
from train_val.comparison.tuning import OPEN
from train_val.training import optimizer_table
from train_val.training.optimizer_table import Known
from train_val.training.optimizers import weights_digest

# Settings for which "none" is a value, not the lack of one.
_WORDS = ("input_scale", "y_use", "d_use")

NAMES = tuple(known.name.lower() for known in optimizer_table.TABLE if known.load() is not None)


@dataclasses.dataclass(frozen=True)
class Entrant:
    """An optimizer that takes part in a scoreboard.

    Attributes:
      text: The line that it was parsed from.
      title: The name in tables, without the settings that are tuned.
      axes: The settings that are tuned, with the values that tuning begins from, ascending.
      fixed: The other settings.
      identity: What its runs depend on besides the tuned settings; part of their key.
      make: A function from values of the tuned settings to an optimizer with `init` and `step`.
      knows_end: Whether `make` also takes the number of steps of the run.
    """

    text: str
    title: str
    axes: dict[str, tuple[Any, ...]]
    fixed: dict[str, Any]
    identity: dict[str, Any]
    make: Callable[..., Any] = dataclasses.field(compare=False)
    knows_end: bool = False

    def optimizer(self, setting: Mapping[str, Any], steps: int) -> Any:
        """Returns an optimizer for a run of so many steps, at values of the tuned settings."""
        return self.make(setting, steps) if self.knows_end else self.make(setting)


def parse_all(text: str, meta_ckpt: str | None = None) -> list[Entrant]:
    """Returns the optimizers of a list.

    Args:
      text: Lines as for `parse`, separated by commas.
      meta_ckpt: The meta-optimizer that `meta` stands for, as for `parse`.

    Raises:
      ValueError: If a line is not understood, or two are the same.
    """
    entrants = [parse(part.strip(), meta_ckpt) for part in text.split(",") if part.strip()]
    if not entrants:
        raise ValueError(f"Expected optimizers among {list(NAMES)}, got {text!r}.")
    for a, b in itertools.combinations(entrants, 2):
        if a.title == b.title:
            raise ValueError(
                f"Expected every optimizer once, got {a.text!r} and {b.text!r}, which would both "
                f"be called {a.title!r}: leave one out, or give one a title, as in "
                f"{b.text}:title=another."
            )
    return entrants


def parse(text: str, meta_ckpt: str | None = None) -> Entrant:
    """Returns an optimizer from a line like `adam`, `adam:lr=1e-3/1e-2` or `hf:cg=2:damping=0.1/1`.

    The line is a name, then settings, each after a colon: the arguments of the optimizer's
    constructor, with `lr` for `learning_rate`, `cg` for `cg_iterations`, `share` for
    `curvature_share` and `scale` for `damping_scale`. Values separated by slashes are a grid to
    tune over; a single value is not tuned. The learning rate has a default grid. With
    `schedule=linear` or `cosine` it falls to the last step of a run (or `horizon=`), after a rise
    over `warmup=`, steps or a share of them (`mlhf.Schedule`). `title=` sets the name in tables.
    `meta:path=...` is another trained MLHF than that of `meta_ckpt`.

    Args:
      text: The line.
      meta_ckpt: The meta-optimizer that `meta` stands for: a folder, a file, or a name that ships
        with the package.

    Raises:
      ValueError: If the name, a setting or a value is not understood.
      FileNotFoundError: If there is no meta-optimizer where one should be.
    """
    name, *parts = text.split(":")
    known = _find(name)
    given = _read(parts, text)
    named = "path" in given
    title = given.pop("title", (None,))[0]
    kind, trained, path = known.load(), None, None
    if known.name == "meta":
        path = given.pop("path", (meta_ckpt,))[0]
        if path is None:
            raise ValueError(
                f"{text!r} needs a meta_ckpt: the folder of a meta-training, a file, or one of the "
                f"names {mlhf.pretrained_names()} that ship with the package."
            )
        trained = mlhf.MetaHessianFree.from_pretrained(str(path))
    allowed = _arguments(kind) if trained is None else sorted(trained.settings)
    _check_schedule(set(given), allowed, text)
    unknown = sorted(set(given) - set(allowed) - set(SCHEDULED))
    if unknown:
        raise ValueError(f"Expected settings of {name} among {allowed}, got {unknown} in {text!r}.")

    grid = {**known.grid, **given}
    axes = {key: _ascending(key, values) for key, values in grid.items() if len(values) > 1}
    if trained is None:
        _check_kinds(kind, given, text)
    single = {key: values[0] for key, values in grid.items() if len(values) == 1}
    fixed = {k: v for k, v in {**known.fixed, **single}.items() if k not in axes}
    identity: dict[str, Any] = {"optimizer": name.lower(), **fixed}
    if trained is not None:
        identity = {
            key: value
            for key, value in {**identity, **_settings_to_keep(trained), **fixed}.items()
            if key not in axes
        }
        identity["weights"] = weights_digest(trained.weights)
    elif kind is mlhf.MetaMuon:
        learned = kind(1, weights=fixed.get("weights")).weights
        identity["weights"] = weights_digest(learned)
    if title is None:
        shown = {k: v[0] for k, v in given.items() if len(v) == 1}
        shown.update({"path": path} if named else {})
        title = known.title + "".join(f", {_short(k)} {_text(v)}" for k, v in shown.items())
    if trained is not None:
        kind = functools.partial(mlhf.MetaHessianFree.from_pretrained, str(path))
    maker = Maker(kind, fixed, allowed, text)
    return Entrant(text, str(title), axes, fixed, identity, maker, knows_end=True)


def _read(parts: Sequence[str], text: str) -> dict[str, tuple[Any, ...]]:
    """Returns the values of each setting of a line."""
    given: dict[str, tuple[Any, ...]] = {}
    for part in parts:
        key, sign, values = part.partition("=")
        key = ALIASES.get(key, key)
        if not sign or not values:
            raise ValueError(
                f"Expected settings such as lr=0.1 or lr=0.1/1, got {part!r} in {text!r}."
            )
        if key in given:
            raise ValueError(f"Expected every setting once, got {key} twice in {text!r}.")
        texts = [values] if key in TEXTS else values.split("/")
        given[key] = tuple(_value(key, value) for value in texts)
        if key not in TEXTS:
            for value in given[key]:
                _check_number(key, value, text)
    return given


def _settings_to_keep(trained: mlhf.MetaHessianFree) -> dict[str, Any]:
    """Returns the settings of a trained MLHF that belong to the key of its runs."""
    # Some stored runs are older than these settings.
    younger = Rule.younger_defaults()
    return {
        key: value
        for key, value in trained.settings.items()
        if key not in younger or value != younger[key]
    }


def setting_text(setting: Mapping[str, Any]) -> str:
    """Returns tuned settings as text for tables."""
    return ", ".join(f"{_short(key)} {_text(value)}" for key, value in setting.items()) or "none"


def _find(name: str) -> Known:
    row = optimizer_table.find(name)
    if row is None or row.name.lower() not in NAMES:
        raise ValueError(f"Expected an optimizer among {list(NAMES)}, got {name!r}.")
    return row


def _check_schedule(given: set[str], allowed: Sequence[str], text: str) -> None:
    """Raises ValueError for a schedule without a rate, and for a horizon without a schedule."""
    own = given & set(SCHEDULED) - set(allowed)
    if own and "learning_rate" not in allowed:
        raise ValueError(
            f"Expected an optimizer with a learning rate beside {sorted(own)[0]}, got {text!r}."
        )
    if "horizon" in own and not {"schedule", "warmup"} & given:
        raise ValueError(f"Expected schedule=linear or cosine beside horizon, got {text!r}.")


def _arguments(make: Callable[..., Any]) -> list[str]:
    left_out = {"self", "name", "kwargs", "loss_scale_factor", "kinds"}
    return [name for name in inspect.signature(make).parameters if name not in left_out]


def _check_kinds(make: Callable[..., Any], given: Mapping[str, tuple[Any, ...]], text: str) -> None:
    """Raises ValueError if a default is a number or a truth value and the given value is not."""
    known = inspect.signature(make).parameters
    for key, values in given.items():
        if key not in known:
            continue  # of the schedule
        default = known[key].default
        for value in values:
            truth = isinstance(value, bool)
            if isinstance(default, bool) and not truth:
                raise ValueError(f"Expected {key}=true or {key}=false, got {value!r} in {text!r}.")
            number = isinstance(default, (int, float)) and not isinstance(default, bool)
            if number and (truth or isinstance(value, str)):
                raise ValueError(f"Expected a number as {key}, got {value!r} in {text!r}.")


def _check_number(key: str, value: Any, text: str) -> None:
    try:
        check_setting(key, value)
    except ValueError as error:
        raise ValueError(f"{str(error)[:-1]} in {text!r}.") from None


def _value(key: str, text: str) -> Any:
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words and key not in _WORDS:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _ascending(key: str, values: Sequence[Any]) -> tuple[Any, ...]:
    numbers = [isinstance(value, (int, float)) for value in values]
    if key in OPEN and not all(numbers):
        # Tuning goes on beyond the ends of such a grid, which only numbers have.
        raise ValueError(
            f"Expected numbers as the values of {key} to tune over, got {list(values)}: leave the "
            "others out, or list the optimizer once more with each of them alone."
        )
    if not all(numbers):
        return tuple(values)
    if len(set(values)) < len(values):
        raise ValueError(f"Expected every value of {key} once, got {list(values)}.")
    return tuple(sorted(float(v) if key in SETTABLE else v for v in values))


def _short(key: str) -> str:
    shown = {"learning_rate": "lr", "cg_iterations": "CG"}
    return shown.get(key, key.replace("_", " "))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
