"""The names that flags accept, written out so that nothing they stand for has to be imported.

`tests/train_val/cli/test_names.py` compares each with what it names.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

DATA = ("cifar10", "digits", "mnist", "imagenet")
SPLITS = ("original", "standard")
STATISTICS = ("population", "moving")
STRATEGIES = ("mirrored", "multi_worker")
SCHEDULES = ("constant", "linear", "cosine")
# Which of the gradient, the residual and the solution the LSTMs see.
INPUTS = ("grx", "gr", "gx", "rx", "g", "r", "x")

TUNED_DATA = ("cifar10", "digits", "mnist")
DYNAMICS = ("adam", "backtracking", "gd", "m1", "m2", "m3", "m4", "momentum", "nesterov")
METHODS = ("reverse", "reversible", "drmad", "truncated", "forward", "rtho", "implicit")
SOLVERS = ("cg", "fixed_point", "gauss_newton", "neumann", "normal_equations", "nystrom")
STORAGES = ("memory", "checkpoints", "disk")
SHARINGS = ("all", "layers", "units")
OUTER_OPTIMIZERS = ("adagrad", "adam", "adamax", "adamw", "lion", "nadam", "rmsprop", "sgd")


def pretrained() -> list[str]:
    """Returns the names of the meta-optimizers that ship with the package."""
    spec = importlib.util.find_spec("mlhf")
    if spec is None or spec.origin is None:
        return []
    return sorted(path.stem for path in (Path(spec.origin).parent / "pretrained").glob("*.npz"))
