"""How many steps are compiled and kept, and what is said of it."""

import gc
import warnings
import weakref

import keras
import pytest
import tensorflow as tf

import mlhf
from mlhf.optimizers import step_cache

PARAMETERS = {"kernel": tf.ones([3, 2])}


def sgd():
    return keras.optimizers.SGD(0.1)


class Counted:
    """A network that counts its traces."""

    def __init__(self):
        self.traces = 0
        self.graphs = []

    def __call__(self, parameters, inputs):
        self.traces += 1
        self.graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        return inputs @ parameters["kernel"]


def take(optimizer, state, network, size=4, loss="squared_error"):
    objective = mlhf.Objective(network, loss, tf.ones([size, 3]), tf.zeros([size, 2]))
    return optimizer.step(objective, PARAMETERS, state)


def test_two_sizes_are_silent_and_stay_compiled():
    network, optimizer = Counted(), mlhf.HessianFree(cg_iterations=1)
    state = optimizer.init(PARAMETERS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (4, 2):
            take(optimizer, state, network, size)
        before = network.traces
        for _ in range(3):
            for size in (4, 4, 2):
                take(optimizer, state, network, size)
    assert network.traces == before and len(optimizer._compiled) == 2


def test_the_third_shape_is_told_once_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(step_cache, "LARGEST", 3)
    network, optimizer = Counted(), mlhf.FirstOrder(sgd)
    state = optimizer.init(PARAMETERS)
    take(optimizer, state, network, 1)
    graph = network.graphs[0]
    take(optimizer, state, network, 2)
    with pytest.warns(
        UserWarning, match=r"third shape of a batch, \(3, 3\).*drop_remainder"
    ) as seen:
        for size in range(3, 7):
            take(optimizer, state, network, size)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert len(optimizer._compiled) == 3
    gc.collect()
    assert graph() is None
    before = network.traces
    take(optimizer, state, network, 6)
    assert network.traces == before


def test_a_structure_that_changes_is_told_from_a_shape():
    def network(parameters, model_state, inputs):
        return inputs @ parameters["kernel"], model_state

    optimizer = mlhf.FirstOrder(sgd)
    state, one = optimizer.init(PARAMETERS), tf.ones([])
    data = tf.ones([4, 3]), tf.zeros([4, 2])
    with pytest.warns(UserWarning, match=r"one shape, \(4, 3\): .*a list stays a list"):
        for model_state in ([one], (one,), {"a": one}):
            objective = mlhf.Objective(network, "squared_error", *data, model_state)
            optimizer.step(objective, PARAMETERS, state)


def test_a_network_made_in_the_loop_is_told():
    optimizer = mlhf.FirstOrder(sgd)
    state = optimizer.init(PARAMETERS)
    with pytest.warns(
        UserWarning, match="third network in a row .*test_step_cache.py.*make it once"
    ):
        for _ in range(4):
            take(optimizer, state, lambda parameters, inputs: inputs @ parameters["kernel"])
    # Networks that take more than a step each are several, and not one made again and again.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = mlhf.FirstOrder(sgd)
        other.init(PARAMETERS)
        for _ in range(4):
            network = lambda parameters, inputs: inputs @ parameters["kernel"]  # noqa: E731
            take(other, state, network)
            take(other, state, network)
