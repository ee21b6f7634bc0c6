"""Names that flags take, written out so that none of what they name has to be imported.

`tests/train_val/cli/test_names.py` compares each with what it names.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

NETWORKS = ("convnet", "mlp", "resnet")
DATA = ("cifar10", "digits", "mnist", "imagenet")
SPLITS = ("original", "standard")
STATISTICS = ("population", "moving")
# Which of the gradient, the residual and the solution the LSTMs see.
INPUTS = ("grx", "gr", "gx", "rx", "g", "r", "x")

# Those of Keras that need no more than a learning rate, with the rate that is Keras' own default.
KERAS_RATES = {
    "Adadelta": 0.001,
    "Adafactor": 0.001,
    "Adagrad": 0.001,
    "Adam": 0.001,
    "AdamW": 0.001,
    "Adamax": 0.001,
    "Ftrl": 0.001,
    "Lamb": 0.001,
    "Lion": 0.001,
    "Muon": 0.001,
    "Nadam": 0.001,
    "RMSprop": 0.001,
    "SGD": 0.01,
    "ScheduleFreeAdamW": 0.0025,
}
# Some have their names from the original, the others from Keras.
_OF_THE_ORIGINAL = ("SGD", "momentum", "adam", "RMSprop")
OPTIMIZERS = (
    *("meta", "kfac", "martens", *_OF_THE_ORIGINAL),
    *(n for n in KERAS_RATES if n.lower() not in {known.lower() for known in _OF_THE_ORIGINAL}),
)
# Those of `compare_optimizers`.
ENTRANTS = (
    *("meta", "untrained", "hf", "hf_lm", "martens", "kfac", "sgd", "momentum", "adam", "rmsprop"),
    *sorted({n.lower() for n in KERAS_RATES} - {"sgd", "adam", "rmsprop"}),
)
FAMILIES = ("convnet", "mlp", "residual", "resnet")

TUNED_NETWORKS = ("convnet", "mlp", "softmax")
TUNED_DATA = ("cifar10", "digits", "mnist")
DYNAMICS = ("adam", "backtracking", "gd", "m1", "m2", "m3", "m4", "momentum", "nesterov")
METHODS = ("reverse", "reversible", "drmad", "truncated", "forward", "rtho", "implicit")
SOLVERS = ("cg", "fixed_point", "gauss_newton", "neumann", "normal_equations", "nystrom")
STORAGES = ("memory", "checkpoints", "disk")
SHARINGS = ("all", "layers", "units")
OUTER_OPTIMIZERS = ("adagrad", "adam", "adamax", "adamw", "lion", "nadam", "rmsprop", "sgd")


def pretrained() -> list[str]:
    """Returns the names of the meta-optimizers that ship with the package."""
    found = importlib.util.find_spec("mlhf")
    if found is None or found.origin is None:
        return []
    return sorted(path.stem for path in (Path(found.origin).parent / "pretrained").glob("*.npz"))
