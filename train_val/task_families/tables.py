"""Regression on tables of numbers, with scikit-learn's data sets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count
from train_val.data.image_data import DataError
from train_val.problems.array_problem import ArrayTask, Score


def tabular(
    table: str = "friedman",
    width: int = 64,
    depth: int = 2,
    examples: int = 2_000,
    noise: float = 0.1,
) -> ArrayTask:
    """Returns a regression by tanh units; columns and targets have mean 0 and deviation 1.

    Every fifth row tests.

    Args:
      table: `"friedman"`, Friedman's first function (1991) of 5 of 10 columns, drawn anew;
        `"diabetes"`, 442 rows that come with scikit-learn; or `"california"`, 20,640 rows that
        scikit-learn downloads.
      width: The number of units in a hidden layer.
      depth: The number of hidden layers.
      examples: The number of rows of `"friedman"`.
      noise: The standard deviation of the noise in the targets of `"friedman"`, whose own is 5.

    Raises:
      ValueError: If an argument makes no sense.
      DataError: If scikit-learn is missing or can't download.
    """
    check_choice("table", table, tuple(_TABLES))
    for name, value in (("width", width), ("depth", depth), ("examples", examples)):
        check_count(name, value)
    try:
        inputs, targets = _TABLES[table](examples, noise)
    except ImportError:
        raise DataError(
            "Expected scikit-learn, which has the tables: pip install scikit-learn."
        ) from None
    except OSError as error:
        raise DataError(
            f"Expected a connection over which scikit-learn downloads {table}, got {error}: take "
            "table=friedman or table=diabetes, which need none."
        ) from None
    is_test = np.arange(len(inputs)) % 5 == 4
    inputs, targets = (_standard(part, ~is_test) for part in (inputs, targets.reshape(-1, 1)))
    return ArrayTask(
        (inputs[~is_test], targets[~is_test]),
        (inputs[is_test], targets[is_test]),
        "squared_error",
        build=functools.partial(_build, inputs.shape[1], width, depth),
        score=Score("share of the variance that is left", _share_left),
    )


def _share_left(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns the mean square of the error: targets have the variance 1."""
    return tf.reduce_mean(tf.square(outputs - targets))


def _friedman(examples: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    made: tuple[np.ndarray, np.ndarray] = datasets.make_friedman1(
        examples, noise=noise, random_state=0
    )
    return made


def _diabetes(examples: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    del examples, noise
    made: tuple[np.ndarray, np.ndarray] = datasets.load_diabetes(return_X_y=True)
    return made


def _california(examples: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    del examples, noise
    made: tuple[np.ndarray, np.ndarray] = datasets.fetch_california_housing(return_X_y=True)
    return made


_TABLES: dict[str, Callable[[int, float], tuple[Any, Any]]] = {
    "friedman": _friedman,
    "diabetes": _diabetes,
    "california": _california,
}


def _standard(values: np.ndarray, is_train: np.ndarray) -> np.ndarray:
    """Returns columns with the mean 0 and the deviation 1 of the rows that are trained on."""
    rows = values[is_train]
    standard: np.ndarray = (values - rows.mean(0)) / np.maximum(rows.std(0), 1e-12)
    return standard


def _build(columns: int, width: int, depth: int, seed: int) -> keras.Model:
    layers: list[Any] = [keras.Input((columns,))]
    for number in range(depth + 1):
        is_last = number == depth
        layers.append(
            keras.layers.Dense(
                1 if is_last else width,
                None if is_last else "tanh",
                kernel_initializer=keras.initializers.GlorotNormal(seed=1000 * seed + number),
                name="prediction" if is_last else f"hidden{number + 1}",
            )
        )
    return keras.Sequential(layers, name="tabular")
