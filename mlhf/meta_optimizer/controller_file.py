"""The file of a controller's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlhf.meta_optimizer.step_controller import (
    COMMON,
    KINDS,
    OWN,
    ControllerWeights,
    neutral_weights,
)
from mlhf.meta_optimizer.weights_file import PRETRAINED, about_of, found, write_weights

# The controller that ships with the package.
SHIPPED = PRETRAINED / "controllers" / "muon.npz"
_OPTIMIZER, _VERSION = "MetaMuon", 2
# What the rows of a file of the first version saw: the first so many of what they share, and the
# first so many of their own.
_COMMON_1, _OWN_1 = 8, 2


def checked(weights: Any) -> ControllerWeights:
    """Returns weights as float32 arrays.

    Args:
      weights: The arrays in the order of `ControllerWeights`, lists of numbers included.

    Raises:
      ValueError: If their number, a shape or a value is wrong.
    """
    like = neutral_weights()
    arrays = [np.asarray(value, np.float32) for value in weights]
    if len(arrays) != len(like):
        raise ValueError(f"Expected {len(like)} arrays of weights, got {len(arrays)}.")
    for name, array, expected in zip(like._fields, arrays, like, strict=True):
        if array.shape != expected.shape:
            raise ValueError(
                f"Expected {name} of shape {expected.shape} among a controller's weights, got "
                f"{array.shape}."
            )
        if not np.all(np.isfinite(array)):
            raise ValueError(f"Expected finite weights of a controller, got others in {name}.")
    return ControllerWeights(*arrays)


def write(path: str | Path, weights: ControllerWeights) -> Path:
    """Writes a file, whole or not at all.

    Args:
      path: The path of the file; `.npz` is added if it is missing.
      weights: The weights.

    Returns:
      The path.
    """
    arrays = {name: np.asarray(value) for name, value in weights._asdict().items()}
    return write_weights(path, {"optimizer": _OPTIMIZER, "version": _VERSION}, arrays)


def read(path: str | Path) -> ControllerWeights:
    """Reads a file.

    Args:
      path: The file, with or without its `.npz`.

    Returns:
      The weights.

    Raises:
      FileNotFoundError: If there is no such file.
      DamagedFileError: If it is not the file of a controller.
      LaterVersionError: If a later version of this package wrote it.
    """
    from replay import DamagedFileError, LaterVersionError, read_structure

    path = found(Path(path))
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the file of a controller, which MetaMuon.save writes; found none at {path}."
        )
    content = read_structure(path)
    try:
        version = int(about_of(content)["version"])
        # A later version may hold other weights, which is not damage.
        weights = None if version > _VERSION else checked(_arrays(content, version))
    except Exception as error:  # whatever NumPy may raise
        reason = f"it has no entry {error}" if isinstance(error, KeyError) else error
        raise DamagedFileError(
            f"{path} is not the file of a controller ({reason}). Expected one that MetaMuon.save "
            "wrote; MetaHessianFree.from_pretrained without steps= reads those of a meta-training.",
            str(path),
        ) from error
    if weights is None:
        raise LaterVersionError(
            f"{path} is of version {version}, and this package reads {_VERSION}: read it with a "
            "later version of the package.",
            str(path),
        )
    return weights


def _arrays(content: dict[str, Any], version: int) -> list[Any]:
    arrays = {name: np.asarray(content["weights"][name]) for name in ControllerWeights._fields}
    return list((_with_zeros(arrays) if version == 1 else arrays).values())


def _with_zeros(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of the first version with zeros for what rows did not see then."""

    def widened(array: np.ndarray, axis: int, first: int) -> np.ndarray:
        own = first + _COMMON_1
        places = [own] * (COMMON - _COMMON_1) + [own + _OWN_1] * (OWN - _OWN_1)
        return np.insert(array, places, 0, axis)

    return {
        **arrays,
        "lengths": widened(arrays["lengths"], 1, 0),
        "momentum": np.append(arrays["momentum"], np.zeros(COMMON - _COMMON_1, np.float32)),
        "kernel_1": widened(arrays["kernel_1"], 0, len(KINDS)),
    }
