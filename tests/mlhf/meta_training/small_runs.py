"""Small meta-trainings: a linear network on three clouds of points, and a scripted meta-step."""

import numpy as np
import tensorflow as tf

import mlhf
from mlhf.meta_training import meta_step

CLASSES, FEATURES, BATCH = 3, 4, 8
CENTERS = 1.5 * np.random.default_rng(99).normal(size=(CLASSES, FEATURES))


def network(parameters, inputs):
    dense = parameters["dense"]
    return inputs @ dense["kernel"] + dense["bias"]


def initialize(seed, features=FEATURES):
    random = np.random.default_rng(seed)
    return {
        "dense": {
            "kernel": tf.constant(0.3 * random.normal(size=(features, CLASSES))),
            "bias": tf.zeros([CLASSES], tf.float64),
        }
    }


def batch(number):
    """Batch `number` of an endless stream: points around three centers."""
    random = np.random.default_rng(number)
    labels = random.integers(0, CLASSES, BATCH)
    return CENTERS[labels] + random.normal(size=(BATCH, FEATURES)), labels


def batches(first):
    number = first
    while True:
        yield batch(number)
        number += 1


def make_task(**changes):
    return mlhf.Task(
        **{
            "network": network,
            "loss": "softmax_cross_entropy",
            "initialize": initialize,
            "batches": batches,
            **changes,
        }
    )


def optimizer(**changes):
    return mlhf.MetaHessianFree(**{"cg_iterations": 1, **changes})


def run(steps=6, task=None, rule=None, **arguments):
    arguments = {"roll_back": 2, "progress": False, "meta_lr": 0.01, **arguments}
    return mlhf.meta_train(task or make_task(), rule or optimizer(), steps, **arguments)


def assert_same_weights(a, b):
    assert a.optimizer.weights.keys() == b.optimizer.weights.keys()
    for role, weights in a.optimizer.weights.items():
        for left, right in zip(weights, b.optimizer.weights[role], strict=True):
            np.testing.assert_array_equal(left, right)


def without_times(history):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in history]


def as_arrays(structure):
    return tf.nest.map_structure(np.asarray, structure)


class Script:
    """Losses, meta losses, norms and whether all is finite, one a meta-step; batches carry them."""

    def __init__(self, steps, seed=0):
        random = np.random.default_rng(seed)
        self.loss = random.normal(size=steps)
        self.meta_loss = random.normal(size=steps)
        self.norm = 3 + random.normal(size=steps)
        self.finite = random.uniform(size=steps) > 0.1

    def batches(self, first):
        rows = np.stack([self.loss, self.meta_loss, self.norm, self.finite], 1)
        for row in rows[first:]:
            yield row[None], np.zeros(1, int)

    def task(self):
        return make_task(batches=self.batches)

    @staticmethod
    def meta_step(optimizer, layout, static, unrolled, weights, moments, carry, batches, *_, **__):
        loss, meta_loss, norm, finite = tf.unstack(batches[0][0, 0])
        metrics = {
            "loss": loss,
            "meta_loss": meta_loss,
            "weights_norm": norm,
            "hession_loss": loss,
            # What it began with.
            "weight": carry.weights[0],
            "memory": carry.state.solution[0],
        }
        state = carry.state._replace(solution=carry.state.solution + 1)
        after = carry._replace(weights=carry.weights + 1, state=state)
        return meta_step.MetaStep(weights, moments, after, metrics, finite > 0)
