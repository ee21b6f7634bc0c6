"""The methods: each takes a problem, weights and hyperparameters, and returns a `Result`."""

from collections.abc import Callable

from mlhf.hypergrad.methods import (
    drmad,
    forward,
    implicit,
    reverse,
    reversible,
    rtho,
    truncated,
)
from mlhf.hypergrad.result import Result

METHODS: dict[str, Callable[..., Result]] = {
    "reverse": reverse.reverse,
    "reversible": reversible.reversible,
    "drmad": drmad.drmad,
    "truncated": truncated.truncated,
    "forward": forward.forward,
    "rtho": rtho.rtho,
    "implicit": implicit.implicit,
}
