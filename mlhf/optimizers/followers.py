"""Copies of an optimizer that take over the numbers which are set on it later.

A model that is trained by `fit` has an optimizer of its own, so that one object may serve several
models. A number that the user sets on the object holds for all of them from the next step on; one
that a callback sets on a model's optimizer holds for that model alone.
"""

from __future__ import annotations

import weakref
from typing import Any

ATTRIBUTE = "_followers"


def add(optimizer: Any, follower: Any) -> None:
    """Lets an object have the numbers that are set on an optimizer from now on.

    Args:
      optimizer: The optimizer.
      follower: Any object with attributes of the numbers' names; it is not kept alive.
    """
    if hasattr(optimizer, "__dict__"):
        optimizer.__dict__.setdefault(ATTRIBUTE, weakref.WeakSet()).add(follower)


def tell(optimizer: Any, name: str, value: Any) -> None:
    """Sets a number on all followers of an optimizer."""
    for follower in list(optimizer.__dict__.get(ATTRIBUTE, ())):
        setattr(follower, name, value)
