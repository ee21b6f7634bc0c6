"""Names of parameters that survive a model's saving and loading.

Keras changes the paths of variables when it loads a model: `network/logits/kernel` becomes
`logits/kernel`, without the name of the model. Two paths name the same parameter if they are equal
or one ends with the other, at a slash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def same(a: str, b: str) -> bool:
    """Returns whether two paths may name the same parameter."""
    return a == b or a.endswith("/" + b) or b.endswith("/" + a)


def find(name: str, known: Iterable[str]) -> str | None:
    """Returns the one of known names that a name stands for.

    Args:
      name: A path, as it is or was before a model was saved or loaded.
      known: The names to choose from.

    Returns:
      The name itself if it is known, else the only one that may be the same; None if there is none
      or more than one.
    """
    known = list(known)
    if name in known:
        return name
    alike = [other for other in known if same(name, other)]
    return alike[0] if len(alike) == 1 else None


def renamed(names: Iterable[str], known: Iterable[str]) -> dict[str, str] | None:
    """Returns which known name each of some names stands for.

    Args:
      names: The names, all different.
      known: As many other names.

    Returns:
      A dictionary from names to known names; None if they are not the same parameters.
    """
    known = list(known)
    pairs = {name: find(name, known) for name in names}
    found = {name: other for name, other in pairs.items() if other is not None}
    whole = len(found) == len(pairs) == len(known) == len(set(found.values()))
    return found if whole else None


def with_names(structure: Any, known: Iterable[str]) -> Any:
    """Returns a dictionary by known names if its own name the same parameters.

    Args:
      structure: A dictionary by names; anything else is returned as it is.
      known: The names.
    """
    known = list(known)
    if not isinstance(structure, Mapping) or set(structure) == set(known):
        return structure
    if not all(isinstance(name, str) for name in structure):
        return structure
    pairs = renamed(structure, known)
    return structure if pairs is None else {pairs[name]: structure[name] for name in structure}


def like(structure: Any, other: Any) -> Any:
    """Returns a structure whose dictionaries have the names of another's where they are the same.

    Args:
      structure: A structure of tensors, such as a state from before a model was saved.
      other: The structure with the names as they are now.
    """
    if isinstance(structure, Mapping) and isinstance(other, Mapping):
        named = with_names(structure, [str(name) for name in other])
        if set(named) != set(other):
            return structure
        return {name: like(part, other[name]) for name, part in named.items()}
    if isinstance(structure, (list, tuple)) and type(structure) is type(other):
        if len(structure) == len(other):
            parts = [like(a, b) for a, b in zip(structure, other, strict=True)]
            return type(structure)(*parts) if hasattr(other, "_fields") else type(structure)(parts)
    return structure
