"""Nested structures of arrays, taken apart into a description and a list of arrays.

The description is plain JSON, so a structure can be stored without pickle. Storage on disk and
storage in memory both go through `flatten` and `unflatten`; that is why they accept, refuse and
return exactly the same things.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

# A dict (keys: str or int), list or tuple of structures, or a leaf: an array or a plain value.
# The recursive type would make every `structure["weights"]` a type error for its users.
Structure: TypeAlias = Any

# bool, integers, floats, complex, bytes, text, raw and structured, time spans and dates.
_KINDS = "biufcSUVmM"


def flatten(structure: Structure, name: str = "structure") -> tuple[Any, list[NDArray[Any]]]:
    """Takes a structure apart.

    Args:
      structure: Dicts (keys of type str or int), lists and tuples, nested to any depth. Leaves are
        NumPy arrays, NumPy scalars and other objects with `__array__` (these come
        back as arrays, scalars with shape []), or the plain values None, bool, int, float and str
        (these come back as they are). A namedtuple comes back as a tuple, a subclass of dict as a
        dict.
      name: The name of the structure in error messages.

    Returns:
      The description, a JSON value, and the arrays in the order in which it numbers them. The
      arrays are not copied.

    Raises:
      TypeError: For a leaf, key or dtype that cannot be stored bit for bit; the message gives its
        place in the structure.
    """
    arrays: list[NDArray[Any]] = []
    return _describe(structure, name, arrays), arrays


def unflatten(description: Any, arrays: list[NDArray[Any]]) -> Structure:
    """Puts a structure together again that `flatten` took apart.

    Args:
      description: The JSON value that `flatten` returned.
      arrays: The arrays that it returned, or others in the same order. They are not copied.

    Returns:
      The structure.

    Raises:
      ValueError: If `flatten` returns no such description.
    """
    if isinstance(description, dict) and len(description) == 1:
        ((kind, content),) = description.items()
        if kind == "dict":
            return {key: unflatten(child, arrays) for key, child in content}
        if kind == "list":
            return [unflatten(child, arrays) for child in content]
        if kind == "tuple":
            return tuple(unflatten(child, arrays) for child in content)
        if kind == "array":
            return arrays[content]
        if kind == "float":
            return float.fromhex(content)
        if kind == "value":
            return content
    raise ValueError(f"expected the description of a structure, got {description!r}")


def _describe(structure: Structure, place: str, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    if isinstance(structure, Mapping):
        return {
            "dict": [
                [_key(key, place), _describe(child, f"{place}[{key!r}]", arrays)]
                for key, child in structure.items()
            ]
        }
    if isinstance(structure, list | tuple):
        kind = "list" if isinstance(structure, list) else "tuple"
        return {
            kind: [
                _describe(child, f"{place}[{number}]", arrays)
                for number, child in enumerate(structure)
            ]
        }
    # Arrays come before plain values: np.float64 is a float, and its dtype must not be lost.
    if hasattr(structure, "__array__"):
        arrays.append(_array(structure, place))
        return {"array": len(arrays) - 1}
    if structure is None or isinstance(structure, bool | int | str):
        return {"value": structure}
    if isinstance(structure, float):
        return {"float": structure.hex()}  # JSON has no NaN and no infinity
    raise TypeError(
        f"{place}: expected an array, None, a bool, int, float or str, or a dict, list or tuple of "
        f"these, got {type(structure).__name__}. Convert it with np.asarray first."
    )


def _key(key: Any, place: str) -> str | int:
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
        return key
    raise TypeError(
        f"{place}: expected keys of type str or int, got {key!r} of type {type(key).__name__}. "
        "Rename the key, or use a list."
    )


def _array(leaf: Any, place: str) -> NDArray[Any]:
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(
            f"{place}: a masked array would lose its mask. Store its `data` and its `mask`."
        )
    array = np.asarray(leaf)
    if not _storable(array.dtype):
        raise TypeError(
            f"{place}: dtype {array.dtype} cannot be stored bit for bit without pickle. Convert "
            "the array to a numeric dtype of NumPy first, for example with "
            "`.astype(np.float32)`."
        )
    return array


def _storable(dtype: np.dtype[Any]) -> bool:
    if dtype.subdtype is not None:
        return _storable(dtype.subdtype[0])
    if dtype.fields is not None:
        return all(_storable(field[0]) for field in dtype.fields.values())
    # isbuiltin is 2 for dtypes that other packages register (bfloat16): .npy forgets their names.
    return dtype.kind in _KINDS and dtype.isbuiltin != 2
