"""Paths that a tape would leave out of a hypergradient, and random decisions, are refused."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
import mlhf
from mlhf import hypergrad as hg

D = tf.float64
X = tf.constant([0.3, 0.5, 0.8], D)
WEIGHTS = {"w": tf.constant([0.5, -1.0, 2.0], D)}
METHODS = (hg.reverse, hg.implicit, hg.truncated, hg.reversible, hg.drmad, hg.forward, hg.train)


def distance(w, h):
    return tf.reduce_sum((w["w"] - 1) ** 2)


def make(train, outer=distance, dynamics=None, **options):
    dynamics = dynamics or hg.Momentum(0.1, 0.5)
    return hg.Problem(train, outer, dynamics=dynamics, steps=3, **options)


def beta(a, x=X):
    return tf.math.betainc(a, 2 + 0 * a, x)


def with_beta(w, h, step, stop=lambda a: a):
    target = beta(tf.fill([3], stop(h["a"])))
    return tf.reduce_sum((w["w"] - target) ** 2) + 0.1 * h["a"] * tf.reduce_sum(w["w"] ** 2)


def test_a_path_without_a_gradient_is_refused_by_every_method():
    problem, hyper = make(with_beta), {"a": tf.constant(1.3, D)}
    for method in METHODS:
        with pytest.raises(custom_op.NotDifferentiableError, match="Betainc.*hyperparameter 'a'"):
            method(problem, WEIGHTS, hyper)
    with pytest.raises(custom_op.NotDifferentiableError, match="Betainc"):
        hg.rtho(problem, WEIGHTS, hyper, update=0.1)
    # Stopped on purpose it is a constant; the other path alone is what is asked for.
    stopped = make(lambda w, h, step: with_beta(w, h, step, tf.stop_gradient))
    found = hg.reverse(stopped, WEIGHTS, hyper).hypergradient["a"]

    def end(a):
        w, v = WEIGHTS["w"], tf.zeros(3, D)
        for _ in range(3):
            v = 0.5 * v + 2 * (w - beta(tf.fill([3], hyper["a"]))) + 0.2 * a * w
            w = w - 0.1 * v
        return float(distance({"w": w}, {}))

    expected = (end(1.3 + 1e-5) - end(1.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(found, expected, rtol=1e-7)


class Slowed(hg.Dynamics):
    """Its step depends on its rate by a function without a gradient too."""

    constants = {"learning_rate": 0.1}

    def init(self, weights, values):
        return {"weights": weights}

    def update(self, state, gradient, values):
        rate = values["learning_rate"]
        return {"weights": state["weights"] - rate * beta(rate, 0 * rate + 0.5) * gradient}


def test_wherever_a_tape_is_used():
    quadratic = lambda w, h, step: tf.reduce_sum(h["a"] * w["w"] ** 2 + tf.sin(w["w"]))  # noqa: E731

    def in_weights(w, h, step):
        return quadratic(w, h, step) + tf.reduce_sum(beta(tf.exp(w["w"])))

    outer = lambda w, h: distance(w, h) + h["a"] * w["w"][0] + beta(h["a"], X[0])  # noqa: E731
    initial = lambda h: {"w": h["a"] * X + beta(tf.fill([3], h["a"]))}  # noqa: E731
    soft = lambda w, h, step: tf.reduce_sum(  # noqa: E731
        tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(h["a"] * w["w"]), w["w"])
    )
    hyper = {"a": tf.constant(1.3, D)}
    for problem, given, text in [
        (make(in_weights), hyper, "the training loss depends on the weights 'w'"),
        (make(quadratic, outer), hyper, "outer loss 'valid_loss' depends on the hyperparameter"),
        (make(quadratic, initial=initial), hyper, "the first state depends on"),
        (
            make(quadratic, dynamics=Slowed()),
            hyper | {"learning_rate": tf.constant(0.1, D)},
            "a step of Slowed depends on the hyperparameter 'learning_rate'",
        ),
    ]:
        with pytest.raises(custom_op.NotDifferentiableError, match=text):
            hg.reverse(problem, WEIGHTS, given)
    # Targets made of the weights: TensorFlow's gradient leaves them out, the mended one does not.
    soft_of_weights = lambda w, h, step: soft(w, {"a": 1.0}, step) + quadratic(w, h, step)  # noqa: E731
    slopes = [
        float(method(make(soft_of_weights), WEIGHTS, hyper).hypergradient["a"])
        for method in (hg.reverse, hg.forward)
    ]
    np.testing.assert_allclose(*slopes, rtol=1e-9)
    # Gauss-Newton's regularizer has tapes of its own.
    solver = hg.linear_solvers.GaussNewton(
        lambda w, h, step: (w["w"][:, None], X[:, None]),
        "squared_error",
        regularizer=lambda w, h: tf.reduce_sum(beta(tf.exp(w["w"])) + h["a"] * w["w"] ** 2),
    )
    with pytest.raises(custom_op.NotDifferentiableError, match="the regularizer depends on"):
        hg.implicit(make(quadratic), WEIGHTS, hyper, solver=solver)


def test_kfac_refuses_a_network_whose_gradient_is_incomplete():
    x, parameters = tf.ones([4, 3]), {"w": tf.ones([3, 2])}

    def network(p, x):
        z = x @ p["w"]
        return z + tf.math.betainc(tf.exp(z), tf.ones_like(z), 0.5 * tf.ones_like(z))

    objective = mlhf.Objective(network, "squared_error", x, tf.ones([4, 2]))
    optimizer = mlhf.KFAC()
    with pytest.raises(custom_op.NotDifferentiableError, match="Betainc.*parameter 'w'"):
        optimizer.step(objective, parameters, optimizer.init(parameters))


def test_a_rate_of_dropout_is_no_hyperparameter():
    def dropped(w, h, step, seed, stop=lambda rate: rate):
        noise = tf.random.stateless_uniform([3], tf.stack([seed, step]), dtype=D)
        kept = tf.where(noise >= stop(h["rate"]), w["w"] / (1 - h["rate"]), 0)
        return tf.reduce_sum((kept - X) ** 2)

    hyper = {"rate": tf.constant(0.4, D)}
    for method in (hg.reverse, hg.forward):
        with pytest.raises(ValueError, match="In the training loss.*'rate'.*random decision"):
            method(make(dropped), WEIGHTS, hyper)
    stopped = lambda *a, seed: dropped(*a, seed, stop=tf.stop_gradient)  # noqa: E731
    assert np.isfinite(hg.reverse(make(stopped), WEIGHTS, hyper).hypergradient["rate"])
    sparse = lambda h: {  # noqa: E731
        "w": tf.cast(tf.random.stateless_uniform([3], [1, 2], dtype=D) < h["rate"], D) * h["rate"]
    }
    plain = lambda w, h, step: tf.reduce_sum((w["w"] - h["rate"]) ** 2)  # noqa: E731
    with pytest.raises(ValueError, match="In the first state.*'rate'"):
        hg.reverse(make(plain, initial=sparse), None, hyper)

    def order(w, h, step, values):
        noise = tf.random.stateless_normal([3], tf.stack([1, step]), dtype=D) + h["rate"] * X
        return tf.reduce_sum(w["w"] * h["rate"] * values(noise))

    ordered = lambda *a: order(*a, lambda z: tf.gather(X, tf.argsort(z)))  # noqa: E731
    largest = lambda *a: order(*a, lambda z: tf.gather(X, tf.math.top_k(z, 2)[1])[0])  # noqa: E731
    for chosen in (ordered, largest):
        with pytest.raises(ValueError, match="random decision.*TopKV2"):
            hg.reverse(make(chosen), WEIGHTS, hyper)
    ranked = lambda *a: order(*a, lambda z: tf.sort(z) * X)  # noqa: E731
    assert np.isfinite(hg.reverse(make(ranked), WEIGHTS, hyper).hypergradient["rate"])
    # The strength of noise is one.
    noisy = lambda w, h, step, seed: tf.reduce_sum(  # noqa: E731
        tf.nn.relu(
            w["w"] + h["rate"] * tf.random.stateless_normal([3], tf.stack([seed, step]), dtype=D)
        )
        ** 2
    )
    assert np.isfinite(hg.reverse(make(noisy), WEIGHTS, hyper).hypergradient["rate"])


def test_rows_gathered_straight_from_a_weight():
    # Their gradient arrives as slices, one row of which comes twice.
    def train(w, h, step):
        rows = tf.gather(w["w"], tf.stack([step % 3, 0, 0]))
        return tf.reduce_sum(h["a"] * rows**2 + tf.sin(rows))

    def end(a):
        w, v = WEIGHTS["w"].numpy(), np.zeros(3)
        for step in range(3):
            slope = np.zeros(3)
            for row in (step % 3, 0, 0):
                slope[row] += 2 * a * w[row] + np.cos(w[row])
            v = 0.5 * v + slope
            w = w - 0.1 * v
        return float(np.sum((w - 1) ** 2))

    expected = (end(1.3 + 1e-5) - end(1.3 - 1e-5)) / 2e-5
    for method in (hg.reverse, hg.forward):
        found = method(make(train), WEIGHTS, {"a": tf.constant(1.3, D)}).hypergradient["a"]
        np.testing.assert_allclose(found, expected, rtol=1e-7)
