"""Checks lists of optimizers and of tasks, as far as their text alone shows what is wrong."""

from __future__ import annotations

from typing import Any

from replay.numbers import check_count, check_number
from train_val.cli import names
from train_val.cli.exit_statuses import UsageError
from train_val.networks.network_table import FAMILIES
from train_val.training.optimizer_table import COMPARED

# Short names of an optimizer's settings.
ALIASES = {
    "lr": "learning_rate",
    "cg": "cg_iterations",
    "share": "curvature_share",
    "scale": "damping_scale",
}
# The ranges of numbers, by the name of the setting; other numbers only have to be finite.
_BELOW_ONE: dict[str, float] = {"at_least": 0, "below": 1}
RANGES: dict[str, dict[str, float]] = {
    "learning_rate": {"above": 0},
    "damping": {"at_least": 0},
    "damping_scale": {"above": 0},
    "curvature_share": {"above": 0, "at_most": 1},
    "factor_share": {"above": 0, "at_most": 1},
    "decay": {"above": 0, "at_most": 1},
    "cg_tolerance": {"at_least": 0},
    "warm_start": {"at_least": 0, "at_most": 1},
    "weight_decay": {"at_least": 0},
    "warmup": {"at_least": 0},
    "epsilon": {"at_least": 0},
    "initial_damping": {"above": 0},
    "initial_distance": {"above": 0},
    "interpolation": _BELOW_ONE,
    **dict.fromkeys(("momentum", "rho", "ema_momentum"), _BELOW_ONE),
    **dict.fromkeys(("beta_1", "beta_2", "adam_beta_1", "adam_beta_2"), _BELOW_ONE),
    **dict.fromkeys(("clipnorm", "clipvalue", "global_clipnorm"), {"above": 0}),
}
# Settings that are whole numbers, and the least value of each.
COUNTS = {
    "cg_iterations": 1,
    "inverse_every": 1,
    "adapt_every": 1,
    "gradient_accumulation_steps": 1,
    "basis_every": 1,
    "largest_axis": 1,
    "iterations": 0,
    "warmup_steps": 0,
    "horizon": 1,
    "every": 1,
}
# Settings of the schedule of a learning rate, which every optimizer with a learning rate has.
SCHEDULED = ("schedule", "warmup", "horizon")
# Settings whose values are text, whatever they look like.
TEXTS = ("title", "path", "excluded", "weights")


def check_setting(key: str, value: Any) -> None:
    """Refuses a number that a setting can't have.

    Args:
      key: The setting's name, not an alias.
      value: The value. Words pass, except as `schedule`: only the optimizer knows whether they fit.

    Raises:
      ValueError: If the number is out of range, or there is no such schedule.
    """
    if key == "schedule" and value not in names.SCHEDULES:
        raise ValueError(f"Expected {key} to be one of {list(names.SCHEDULES)}, got {value!r}.")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if key in COUNTS:
        check_count(key, value, COUNTS[key])
    else:
        check_number(key, value, **RANGES.get(key, {}))


def check_optimizers(text: str, meta_ckpt: str | None) -> None:
    """Checks a list of optimizers, as `compare_optimizers.py --optimizers` takes it.

    Args:
      text: Names and settings, such as `sgd:lr=0.1/1,adam`.
      meta_ckpt: The meta-optimizer that `meta` stands for, unless its settings have a `path`.

    Raises:
      UsageError: If a name, a form or a number is wrong; the text names the first.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"Expected optimizers among {list(COMPARED)}, got {text!r}.")
    for part in parts:
        name, *settings = part.split(":")
        if name.lower() not in COMPARED:
            raise UsageError(f"Expected an optimizer among {list(COMPARED)}, got {name!r}.")
        keys = [_check_one(setting, part) for setting in settings]
        if name.lower() == "meta" and meta_ckpt is None and "path" not in keys:
            raise UsageError(
                f"{part!r} needs a meta_ckpt: the folder of a meta-training, a file, or one of the "
                f"names {names.pretrained()} that ship with the package."
            )


def _check_one(setting: str, part: str) -> str:
    key, sign, values = setting.partition("=")
    key = ALIASES.get(key, key)
    if not sign or not values:
        raise UsageError(
            f"Expected settings such as lr=0.1 or lr=0.1/1, got {setting!r} in {part!r}."
        )
    if key not in TEXTS:
        for value in values.split("/"):
            try:
                check_setting(key, _number(value))
            except ValueError as error:
                raise UsageError(f"{str(error)[:-1]} in {part!r}.") from None
    return key


def check_tasks(text: str, task_file: str | None, flag: str = "tasks") -> None:
    """Checks a list of tasks of families, such as `mlp:width=16,convnet:data=digits`.

    Args:
      text: The list.
      task_file: A file that defines families; with a file, names are not checked.
      flag: The flag that the list was given by.

    Raises:
      UsageError: If anything is wrong; the text names the first.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"Expected --{flag} such as {list(FAMILIES)}, got {text!r}.")
    for part in parts:
        name, *settings = part.split(":")
        if task_file is None and name not in FAMILIES:
            raise UsageError(f"Expected a family of tasks among {list(FAMILIES)}, got {name!r}.")
        for setting in settings:
            key, _, value = setting.partition("=")
            try:
                check_setting(key, _number(value))
            except ValueError as error:
                raise UsageError(f"{str(error)[:-1]} in {part!r}.") from None


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
