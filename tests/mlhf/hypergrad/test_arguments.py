"""What is handed in wrong is told at the door, in a sentence."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg

D = tf.float64
WEIGHTS = {"w": tf.constant([0.5, -1.0, 2.0], D), "b": tf.constant(0.3, D)}
HYPER = {"l2": tf.constant(0.2, D)}
METHODS = (hg.reverse, hg.forward, hg.reversible, hg.truncated, hg.drmad, hg.implicit, hg.train)


def loss(w, h, step):
    return h["l2"] * tf.reduce_sum(w["w"] ** 2) + (w["b"] - tf.reduce_sum(w["w"])) ** 2


def distance(w, h):
    return tf.reduce_sum((w["w"] - 1) ** 2) + w["b"] ** 2


def make(train=loss, outer=distance, **options):
    return hg.Problem(train, outer, dynamics=hg.Momentum(0.05, 0.5), steps=3, **options)


def test_arguments_of_every_method():
    problem = make()
    for method in METHODS:
        with pytest.raises(TypeError, match="a mlhf.hypergrad.Problem as the first.*got dict"):
            method(WEIGHTS, problem, HYPER)
        for seed in (1.5, None, "a", 2**40, [0, 1]):
            with pytest.raises(TypeError, match="Expected seed= as a whole number"):
                method(problem, WEIGHTS, HYPER, seed=seed)
    for options in ({"window": 1.5}, {"window": 0}):
        with pytest.raises(ValueError, match="Expected window >= 1, a whole number"):
            hg.truncated(problem, WEIGHTS, HYPER, **options)
    with pytest.raises(ValueError, match="Expected every >= 1, a whole number"):
        hg.rtho(problem, WEIGHTS, HYPER, update=0.1, every=0)
    first = hg.reverse(problem, None, HYPER | {"initial_weights": WEIGHTS}).hypergradient
    info = hg.reverse(problem, WEIGHTS, HYPER).info["initial_weights_gradient"]
    np.testing.assert_array_equal(first["initial_weights"]["w"], info["w"])
    with pytest.raises(ValueError, match="got None; pass them, 'initial_weights'"):
        hg.reverse(problem, None, HYPER)
    with pytest.raises(ValueError, match="'initial_velocity' structured like.*'w': .3."):
        hg.reverse(problem, WEIGHTS, HYPER | {"initial_velocity": {"w": np.ones(3), "b": [0.0]}})
    with pytest.raises(ValueError, match="start= structured like the weights"):
        hg.implicit(problem, WEIGHTS, HYPER, start={"w": np.ones(3)})


def test_what_operations_of_a_loss_refuse_comes_with_what_it_was_given():
    def doubled(w, h, step):
        return tf.reduce_sum(tf.constant(1.0) * w["w"]) + h["l2"]

    with pytest.raises(ValueError, match=r"train_loss to run on weights .*w: float64.3.*l2: float"):
        hg.reverse(make(doubled), WEIGHTS, HYPER)
    small = {"w": tf.ones([2], tf.float32), "b": tf.constant(0.0)}
    with pytest.raises(ValueError, match=r"weights .*w: float32.2.*hyperparameters .*float64"):
        hg.reverse(make(), small, HYPER)
    shaped = make(lambda w, h, step: tf.reduce_sum(w["w"] @ tf.ones([3, 3], D)) * h["l2"])
    with pytest.raises(ValueError, match="train_loss to run on.*rank"):
        hg.reverse(shaped, WEIGHTS, HYPER)
    with pytest.raises(ValueError, match="there is no 'l1'.*are .'l2'., the weights .'b', 'w'."):
        hg.reverse(make(lambda w, h, step: h["l1"] * w["b"]), WEIGHTS, HYPER)
    with pytest.raises(ValueError, match="valid_loss to run on"):
        hg.reverse(make(outer=lambda w, h: tf.constant(1) * w["b"]), WEIGHTS, HYPER)
    for nothing in (None, {"loss": 1.0}):
        with pytest.raises(ValueError, match="train_loss to return a floating scalar, got"):
            hg.reverse(make(lambda w, h, step, n=nothing: n), WEIGHTS, HYPER)
    with pytest.raises(ValueError, match="initial.hyperparameters. to return a structure"):
        hg.reverse(make(initial=lambda h: None), None, HYPER)

    def own(w, h, step):
        raise ValueError("a sentence of the user's own")

    with pytest.raises(ValueError, match="^a sentence of the user's own"):
        hg.reverse(make(own), WEIGHTS, HYPER)


def test_a_supplier_that_ends_or_changes():
    def with_batch(w, h, step, batch):
        return h["l2"] * tf.reduce_sum((w["w"] - batch) ** 2) + w["b"] ** 2

    ended = iter([np.ones(3)] * 3)
    with pytest.raises(ValueError, match=r"batches\(\d\) to return.*StopIteration.*Minibatches"):
        hg.reverse(make(with_batch, batches=lambda step: next(ended)), WEIGHTS, HYPER)
    uneven = make(with_batch, batches=lambda step: np.ones(3) if not step else (np.ones(3),) * 2)
    with pytest.raises(ValueError, match=r"batches\(1\) of the 1 arrays that step 0 has, got 2"):
        hg.reverse(uneven, WEIGHTS, HYPER)
