"""Keras models trained with this package's optimizers by Keras' own `fit`."""

from mlhf.keras.compiling import compile, load_model
from mlhf.keras.optimizer import Optimizer
from mlhf.keras.optimizer_table import names as optimizer_names

__all__ = ["Optimizer", "compile", "load_model", "optimizer_names"]
