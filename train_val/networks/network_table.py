"""The table of networks: every name that a command line knows, and what it builds there.

A new network is one row of `TABLE`, which makes it known to the commands, their help and their
checks. A name may stand for two networks: `--problem=mlp` is the paper's network,
`--task=mlp:width=64:depth=2` is one of a family with settings. Nothing here imports TensorFlow; a
function is loaded when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Known:
    """A name, and the functions that build its networks, as `"module.function"`.

    Attributes:
      name: The name on a command line.
      paper: The network that `--problem` builds in `tune_hyperparameters.py` and, if `trained`,
        elsewhere; None if there is only a family.
      trained: Whether `--problem` of training, meta-training and comparing offers it.
      photographs: The network that these commands build for photographs; None for the same.
      valid_examples: The most images that `tune_hyperparameters.py` validates on, all of them in
        one batch; None if that command does not offer the network.
      family: The family of tasks of that name, for `--task` and `--tasks`; None if there is none.
      task: The family of that name with data and a loss of its own, likewise.
    """

    name: str
    paper: str | None = None
    trained: bool = False
    photographs: str | None = None
    valid_examples: int | None = None
    family: str | None = None
    task: str | None = None


# "train_val", or "mlhf.train_val" in an installed package.
_PACKAGE = __name__.removesuffix(".networks.network_table")
_PAPER, _RESNET = f"{_PACKAGE}.networks.convnets", f"{_PACKAGE}.networks.resnet"
_FAMILIES = f"{_PACKAGE}.task_families.families"
# Families with data and a loss of their own, by module.
_WITH_DATA = {
    "autoencoders": ("curves", "mnist_autoencoder"),
    "equations": (
        "allen_cahn",
        "burgers",
        "heat",
        "helmholtz",
        "inverse_heat",
        "poisson",
        "poisson_5d",
        "stiff_ode",
    ),
    "long_memory": ("addition", "permutation", "xor"),
    "tables": ("tabular",),
}
_OWN = tuple(
    Known(name, task=f"{_PACKAGE}.task_families.{module}.{name}")
    for module, names in _WITH_DATA.items()
    for name in names
)
TABLE = (
    # Convolutions of 64 channels as in the paper; a family of any width and depth.
    Known("convnet", f"{_PAPER}.convnet", True, None, 1000, f"{_FAMILIES}.convnet"),
    # The paper's 20 sigmoid units; a family of tanh units, any width and depth.
    Known("mlp", f"{_PAPER}.mlp", True, None, 5000, f"{_FAMILIES}.mlp"),
    Known("residual", family=f"{_FAMILIES}.residual"),
    # 16 channels and `--resnet_size`; a family of any width and size.
    Known(
        "resnet",
        f"{_RESNET}.cifar_resnet",
        True,
        f"{_RESNET}.imagenet_resnet",
        family=f"{_FAMILIES}.resnet",
    ),
    Known("softmax", f"{_PAPER}.softmax", valid_examples=5000),
    *_OWN,
)
TABLE = tuple(sorted(TABLE, key=lambda known: known.name))
TRAINED = tuple(known.name for known in TABLE if known.trained)
TUNED = tuple(known.name for known in TABLE if known.valid_examples is not None)
FAMILIES = tuple(known.name for known in TABLE if known.family or known.task)


def find(name: str) -> Known:
    """Returns the row of a name that is in the table."""
    return next(known for known in TABLE if known.name == name)


def load(path: str | None) -> Callable[..., Any]:
    """Returns the function at a path of the table."""
    module, _, name = str(path).rpartition(".")
    return getattr(importlib.import_module(module), name)
