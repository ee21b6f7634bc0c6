"""What `MetaHessianFree.from_pretrained` makes of a name or a file."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlhf.checks.structures import check_path
from mlhf.meta_optimizer import weights_file
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.meta_muon import MetaMuon


def loaded(
    name_or_path: str | Path | None,
    defaults: Mapping[str, Any],
    arguments: Collection[str],
    overrides: Mapping[str, Any],
) -> tuple[weights_file.Content, dict[str, Any]]:
    """Returns what a file holds, and the settings of its optimizer.

    Args:
      name_or_path: The name or the file.
      defaults: The settings of an optimizer that is given none: a file may be older than a setting.
      arguments: The arguments of the constructor.
      overrides: The arguments that differ from those of the file.

    Raises:
      FileNotFoundError: If there is no such name or file.
      TypeError: If there is no name.
      ValueError: If a setting is not known.
    """
    if name_or_path is None:
        raise TypeError(
            "Expected a name or a file as a string or a path, got None: one of the names "
            f"{weights_file.names()}, or else the number of steps of the training, "
            "from_pretrained(steps=500)."
        )
    check_path("a name or a file", name_or_path)
    content = weights_file.read(name_or_path)
    newer = sorted(set(content.settings) - set(defaults))
    if newer:
        raise ValueError(
            f"{name_or_path} has the settings {newer}, which this version does not know: a "
            "newer one saved it."
        )
    settings = {**defaults, **content.settings}
    unknown = set(overrides) - set(arguments)
    if unknown:
        raise ValueError(f"Expected overrides among {sorted(settings)}, got {sorted(unknown)}.")
    return content, {**settings, **overrides}


def weights_of(
    name_or_path: str | Path | None, content: weights_file.Content, roles: Collection[str]
) -> dict[str, LSTMWeights]:
    """Returns the weights of the roles that an optimizer has.

    Raises:
      ValueError: If the file lacks some.
    """
    missing = sorted(set(roles) - set(content.weights))
    if missing:
        raise ValueError(
            f"{name_or_path} holds weights for the roles {sorted(content.weights)}, and {missing} "
            "are wanted too: the uses given (x_use, y_use, d_use) have to be those of its "
            "meta-training."
        )
    return {role: content.weights[role] for role in roles}


def controlled(path: str | Path | None, steps: int, overrides: Mapping[str, Any]) -> MetaMuon:
    """Returns the optimizer with a learned controller for a training of so many steps.

    Args:
      path: The controller's file; None for the one that ships.
      steps: The number of steps.
      overrides: Other settings of `mlhf.MetaMuon`.

    Raises:
      ValueError: If a setting is not known.
    """
    known = list(inspect.signature(MetaMuon).parameters)
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"Expected settings of MetaMuon among {known}, got {unknown}.")
    weights: dict[str, Any] = {} if path is None else {"weights": path}
    return MetaMuon(steps, **weights, **overrides)
