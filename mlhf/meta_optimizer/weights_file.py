"""The file of a trained meta-optimizer: settings, kinds of variables, LSTM weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mlhf.meta_optimizer import coordinate_lstm
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights

PRETRAINED = Path(__file__).parents[1] / "pretrained"
# The name of the trained optimizer in the folder of a meta-training.
FILE_IN_FOLDER = "meta_optimizer.npz"


class Content(NamedTuple):
    """The content of a file."""

    settings: dict[str, Any]
    kinds: list[str]
    weights: dict[str, LSTMWeights]


def names() -> list[str]:
    """Returns the names of the meta-optimizers that ship with the package."""
    return sorted(path.stem for path in PRETRAINED.glob("*.npz"))


def write(
    path: str | Path, settings: dict[str, Any], kinds: list[str], weights: dict[str, LSTMWeights]
) -> Path:
    """Writes a file, whole or not at all.

    Args:
      path: The path of the file; `.npz` is added if it is missing.
      settings: The arguments of the constructor.
      kinds: The kinds, in the order of the weights' first axis.
      weights: The weights by role.

    Returns:
      The path.
    """
    arrays = {
        role: {field: np.asarray(value) for field, value in value._asdict().items()}
        for role, value in weights.items()
    }
    return write_weights(path, {"settings": settings, "kinds": kinds}, arrays)


def write_weights(path: str | Path, about: dict[str, Any], weights: dict[str, Any]) -> Path:
    """Writes a file of weights of any kind, whole or not at all.

    Args:
      path: The path of the file; `.npz` is added if it is missing.
      about: What JSON can hold about them.
      weights: A structure of arrays.

    Returns:
      The path.
    """
    from replay import write_structure

    path = Path(path)
    if path.suffix != ".npz":
        path = _with_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    write_structure(path, {"about": text, "weights": weights})
    return path


def about_of(content: dict[str, Any]) -> dict[str, Any]:
    """Returns what a file that `write_weights` wrote holds about its weights."""
    return dict(json.loads(np.asarray(content["about"], np.uint8).tobytes().decode()))


def found(path: Path) -> Path:
    """Returns a path as it was given, or with the `.npz` that was left out."""
    whole = _with_suffix(path)
    return whole if not path.exists() and whole.is_file() else path


def _with_suffix(path: Path) -> Path:
    return path.with_name(path.name + ".npz")


def read(name_or_path: str | Path) -> Content:
    """Reads a file.

    Args:
      name_or_path: A folder with `meta_optimizer.npz`, a file, with or without its `.npz`, or a
        name of `names()`: the first of them that exists.

    Returns:
      Its content.

    Raises:
      FileNotFoundError: If there is no such name or file.
      DamagedFileError: If it is not the file of a meta-optimizer.
      LaterVersionError: If a later version of this package wrote it.
    """
    from replay import DamagedFileError, read_structure

    path = Path(name_or_path)
    if path.is_dir():
        path = path / FILE_IN_FOLDER
    path = found(path)
    if not path.exists() and str(name_or_path) in names():
        path = PRETRAINED / f"{name_or_path}.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"Expected a trained meta-optimizer: one of the names {names()}, a file, or a folder "
            f"with {FILE_IN_FOLDER} in it (meta-training writes it); found nothing at {path}."
        )
    content = read_structure(path)
    try:
        about = about_of(content)
        _check_kinds(about["kinds"])
        weights = {
            role: LSTMWeights(**{field: tf.constant(v) for field, v in fields.items()})
            for role, fields in content["weights"].items()
        }
        _check_shapes(about["kinds"], weights)
        return Content(dict(about["settings"]), list(about["kinds"]), weights)
    except Exception as error:  # whatever NumPy and TensorFlow may raise
        reason = f"it has no entry {error}" if isinstance(error, KeyError) else error
        raise DamagedFileError(
            f"{path} is not the file of a meta-optimizer ({reason}). Expected one that "
            "MetaHessianFree.save or a meta-training wrote.",
            str(path),
        ) from error


def _check_kinds(kinds: Any) -> None:
    strings = isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)
    if not strings or sorted(set(kinds)) != kinds:
        raise ValueError(f"expected kinds of variables, sorted, got {str(kinds)[:60]}")


def _check_shapes(kinds: list[str], weights: dict[str, LSTMWeights]) -> None:
    like = coordinate_lstm.initial_weights(len(kinds), 0, tf.float32)
    for role, found in weights.items():
        for name, a, b in zip(like._fields, found, like, strict=True):
            if a.shape != b.shape or not a.dtype.is_floating:
                raise ValueError(
                    f"{role}/{name}: expected floating numbers of shape {b.shape} for "
                    f"{len(kinds)} kinds, got {a.dtype.name} of shape {a.shape}"
                )
            if not np.all(np.isfinite(a)):
                raise ValueError(f"{role}/{name}: not all of its numbers are finite")
