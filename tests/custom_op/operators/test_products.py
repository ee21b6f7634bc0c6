"""Products with many vectors at once, against one after the other and dense matrices."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.graphs.batching import over_vectors
from tests.custom_op import cases

NAME = "mlp_tanh"
_random = np.random.default_rng(0)


def _refuse(self, inner, values):
    raise AssertionError(f"no rule serves {inner.type}")


def _equation(w):
    """The residuals of u'' = u at five points and of u = 1 at two."""
    inside, ends = tf.constant([[0.1], [0.3], [0.5], [0.7], [0.9]], tf.float64), [[0.0], [1.0]]

    def u(x):
        return tf.tanh(x @ w["first"] + w["bias"]) @ w["last"]

    def slope(x):
        return custom_op.jvp(u, x, tf.ones_like(x))[1]

    curved = custom_op.jvp(slope, inside, tf.ones_like(inside))[1]
    return tf.concat([curved - u(inside), u(tf.constant(ends, tf.float64)) - 1], 0)


@pytest.fixture(scope="module")
def weights():
    shapes = {"first": (1, 4), "bias": (4,), "last": (4, 1)}
    return {name: tf.constant(_random.normal(size=shape)) for name, shape in shapes.items()}


def test_a_residual_with_derivatives_by_inputs(weights, monkeypatch):
    monkeypatch.setattr(over_vectors._Batched, "_one_by_one", _refuse)
    operator = custom_op.gauss_newton(_equation, weights, "squared_error", np.zeros((7, 1)))
    jacobian = custom_op.jacobian(_equation, weights)
    columns = _random.normal(size=(12, 9))
    singly = np.stack([jacobian.matvec(column) for column in columns.T], 1)
    np.testing.assert_allclose(jacobian.matmat(columns), singly, rtol=1e-12, atol=1e-12)
    dense = jacobian.to_dense().numpy()
    np.testing.assert_allclose(dense @ columns, singly, rtol=1e-11, atol=1e-11)
    singly = np.stack([jacobian.rmatvec(row) for row in np.eye(7)])
    np.testing.assert_allclose(dense, singly, rtol=1e-12, atol=1e-12)
    expected = dense.T @ dense @ columns / 7
    # By J as a matrix for nine vectors, by the extra axis for five.
    np.testing.assert_allclose(operator.matmat(columns), expected, rtol=1e-11, atol=1e-11)
    few = operator.matmat(columns[:, :5])
    np.testing.assert_allclose(few, expected[:, :5], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
def test_matmat_of_a_classifier(weighted):
    case = cases.CASES[NAME]
    given = {"weights": cases.WEIGHTS, "mask": cases.MASK} if weighted else {}
    operator = custom_op.gauss_newton(
        case.network, case.tensors(), case.loss, case.targets, **given
    )
    columns = _random.normal(size=(operator.shape[0], 4))
    expected = cases.gauss_newton(NAME, weighted) @ columns
    np.testing.assert_allclose(operator.matmat(columns), expected, atol=1e-12)
    np.testing.assert_allclose(operator.to_scipy().matmat(columns), expected, atol=1e-12)


def test_gradients_of_examples():
    x, y = _random.normal(size=(6, 3)), _random.normal(size=(6, 2))
    w = tf.constant(_random.normal(size=(3, 2)))

    def losses(w):
        return 0.5 * tf.reduce_sum(tf.square(tf.tanh(x @ w) - y), 1)

    gradients = custom_op.jacobian(losses, w).to_dense()
    z = np.tanh(x @ w.numpy())
    expected = np.einsum("bi,bo->bio", x, (z - y) * (1 - z**2))
    np.testing.assert_allclose(gradients, expected.reshape(6, -1), rtol=1e-13, atol=1e-15)


def test_products_at_once_are_differentiable_in_the_vectors_and_the_parameters():
    x, w = _random.normal(size=(4, 2)), tf.constant(_random.normal(size=(2, 2)))
    columns = tf.constant(_random.normal(size=(4, 4)))

    @tf.function(autograph=False)
    def slopes(w, columns):
        def total(at_once):
            jacobian = custom_op.jacobian(lambda w: tf.tanh(x @ w), w)
            if at_once:
                return tf.reduce_sum(columns[0] ** 3 * jacobian.matmat(columns))
            singly = [jacobian.matvec(column) for column in tf.unstack(columns, axis=1)]
            return tf.reduce_sum(columns[0] ** 3 * tf.stack(singly, 1))

        sources = [columns, w]
        return tf.gradients(total(True), sources), tf.gradients(total(False), sources)

    for at_once, singly in zip(*slopes(w, columns), strict=True):
        np.testing.assert_allclose(at_once, singly, rtol=1e-11, atol=1e-11)


def test_wrong_matrices_are_refused(weights):
    operator = custom_op.gauss_newton(_equation, weights, "squared_error", np.zeros((7, 1)))
    with pytest.raises(ValueError, match=r"^Expected a matrix of shape \(12, K\) .*\(11, 2\)"):
        operator.matmat(np.ones((11, 2)))
    with pytest.raises(ValueError, match="single vector goes to matvec"):
        operator.matmat(np.ones(12))
    with pytest.raises(TypeError, match="float32"):
        operator.matmat(tf.ones([12, 2]))
