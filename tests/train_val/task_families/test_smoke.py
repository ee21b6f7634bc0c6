import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from train_val import task_families


def linear_task(**changes):
    """A task without Keras that passes, but for what is changed."""

    def batches(start):
        k = start
        while True:
            numbers = np.random.default_rng(k)
            inputs = numbers.normal(size=(8, 3)).astype(np.float32)
            yield inputs, (inputs.sum(1) > 0).astype(np.int32)
            k += 1

    def initialize(seed):
        return {"dense/kernel": tf.random.stateless_normal([3, 2], [seed, 0])}

    task = mlhf.Task(
        lambda parameters, inputs: inputs @ parameters["dense/kernel"],
        "softmax_cross_entropy",
        initialize,
        batches,
    )
    return dataclasses.replace(task, **changes)


def test_a_task_without_keras_passes():
    task_families.smoke_test(linear_task())


def _jumping(start):
    yield from linear_task().batches(start * 1000)


def _growing(start):
    for k in range(start, start + 5):
        yield np.ones((3 + k, 3), np.float32), np.zeros(3 + k, np.int32)


def _once(start):
    yield np.ones((3, 3), np.float32), np.zeros(3, np.int32)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"initialize": lambda s: {"dense/kernel": tf.ones([3, 2])}}, "depend on the seed"),
        (
            {"initialize": lambda s: {"dense/kernel": tf.fill([3, 2], np.nan)}},
            "parameters that are not finite",
        ),
        (
            {"initialize": lambda s: {"dense/kernel": tf.random.normal([3, 2])}},
            "something else each time",
        ),
        ({"batches": _jumping}, "batch k has to be the same"),
        ({"batches": _growing}, "several shapes"),
        ({"batches": _once}, "ends after fewer than 3"),
        (
            {"network": lambda p, x: x @ p["dense/kernel"] / 0.0},
            "the initial loss is",
        ),
        (
            {"network": lambda p, x: x @ (p["dense/kernel"] * [[1.0], [1.0], [1.0]]) * 0.0},
            "the gradient of dense/kernel is zero everywhere",
        ),
    ],
)
def test_a_task_that_is_wrong_is_told_so(changes, sentence):
    with pytest.raises(AssertionError, match=sentence):
        task_families.smoke_test(linear_task(**changes))
