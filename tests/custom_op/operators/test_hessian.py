"""What is the Hessian's own: third derivatives, and errors. The table has its products."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from tests.custom_op import cases


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_third_derivatives(mode):
    """The gradient of <u, H v> in the parameters and in v."""
    case = cases.CASES["mlp_sigmoid"]

    def value(w, v):
        return tf.add_n(
            [
                tf.reduce_sum(a * b)
                for a, b in zip(
                    tf.nest.flatten(
                        custom_op.hessian(case.network, w, case.loss, case.targets) @ v
                    ),
                    tf.nest.flatten(case.random(1)),
                    strict=True,
                )
            ]
        )

    def slope(w, v):
        with tf.GradientTape() as tape:
            tape.watch((w, v))
            scalar = value(w, v)
        return tape.gradient(scalar, (w, v))

    run = tf.function(slope, autograph=False) if mode == "graph" else slope
    w, v, direction = case.tensors(), case.random(2), case.random(3)
    to_w, to_v = run(w, v)
    np.testing.assert_allclose(
        cases.flat(to_v), cases.hessian("mlp_sigmoid") @ cases.flat(case.random(1)), atol=1e-9
    )
    step = 1e-5
    scalar = tf.function(value, autograph=False)

    def moved(by):
        return tf.nest.map_structure(lambda a, d: a + by * d, w, direction)

    ahead, behind = (scalar(moved(by), v) for by in (step, -step))
    got = cases.flat(to_w) @ cases.flat(direction)
    np.testing.assert_allclose(got, (ahead - behind) / (2 * step), rtol=1e-6)


def test_a_parameter_with_a_constant_gradient_is_connected():
    """A linear network: the loss is linear in b, and b's row of the Hessian is zero."""

    class Mean(custom_op.losses.MeanLoss):
        def terms(self, outputs, targets):
            return tf.identity(outputs)

        def term_gradients(self, outputs, targets):
            return tf.ones_like(outputs)

        def term_hessian_products(self, outputs, targets, vector):
            return tf.zeros_like(vector)

    p = {"b": tf.constant([1.0]), "w": tf.constant([2.0])}
    hessian = custom_op.hessian(lambda p: p["b"] + p["w"] ** 2, p, Mean(), tf.zeros([1]))
    np.testing.assert_allclose(hessian.to_dense(), [[0, 0], [0, 2]])


@pytest.mark.parametrize("make", [custom_op.gauss_newton, custom_op.hessian, custom_op.fisher])
def test_bad_input_says_expected_and_got(make):
    x, y = np.ones((3, 2), "f4"), np.zeros((3, 2), "f4")
    w = {"w": tf.ones([2, 2]), "b": tf.zeros([2])}

    def network(p):
        return x @ p["w"] + p["b"]

    with pytest.raises(
        ValueError, match=r"one of \['mean_squared_error', 'poisson', .* got 'huber'"
    ):
        make(network, w, "huber", y)
    with pytest.raises(ValueError, match=r"do not depend on \['b'\]"):
        make(lambda p: x @ p["w"], w, "squared_error", y)
    with pytest.raises(TypeError, match="Expected floating .*, got int32 at 'b'"):
        make(network, {"w": w["w"], "b": tf.zeros([2], tf.int32)}, "squared_error", y)
    with pytest.raises(ValueError, match=r"outputs' shape \(3, 2\), got \(2,\)"):
        make(network, w, "squared_error", y[0])
    with pytest.raises(TypeError, match="one output tensor"):
        make(lambda p: (network(p), network(p)), w, "squared_error", y)
    operator = make(network, w, "squared_error", y)
    with pytest.raises(ValueError, match=r"structure \{'w': \(2, 2\), 'b': \(2,\)\}, got \{'w'"):
        operator @ {"w": w["w"]}
    with pytest.raises(ValueError, match=r"shape \(2,\) at 'b', got \(3,\)"):
        operator @ {"w": w["w"], "b": tf.zeros([3])}
    with pytest.raises(TypeError, match="dtype float32 at 'b', got float64"):
        operator @ {"w": w["w"], "b": tf.zeros([2], tf.float64)}
    with pytest.raises(ValueError, match=r"flat vector of shape \(6,\), got \(5,\)"):
        operator @ tf.zeros([5])


def test_unknown_kinds_of_fisher_matrix():
    w = tf.ones([1, 2])
    with pytest.raises(ValueError, match=r"\['empirical', 'exact', 'sampled'\], got 'true'"):
        custom_op.fisher(lambda w: w, w, "squared_error", w, kind="true")
    with pytest.raises(ValueError, match="at least one sample, got samples=0"):
        custom_op.fisher(lambda w: w, w, "squared_error", w, kind="sampled", samples=0)


def test_the_empirical_fisher_less_the_gradients_square_is_their_covariance():
    case = cases.CASES["mlp_tanh"]
    operator = custom_op.fisher(
        case.network, case.tensors(), case.loss, case.targets, kind="empirical"
    )
    j, z = cases.jacobian("mlp_tanh"), cases.outputs("mlp_tanh")
    residuals = (z - case.targets).reshape(-1)
    gradients = np.stack(
        [j[rows].T @ residuals[rows] for rows in np.split(np.arange(z.size), cases.BATCH)]
    )
    g = cases.flat(operator.gradient())
    np.testing.assert_allclose(g, gradients.mean(0), atol=1e-12)
    covariance = np.cov(gradients.T, bias=True)
    np.testing.assert_allclose(operator.to_dense() - np.outer(g, g), covariance, atol=1e-11)
