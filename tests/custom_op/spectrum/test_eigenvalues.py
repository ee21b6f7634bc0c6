import numpy as np
import pytest
import tensorflow as tf

import custom_op
from tests.custom_op import cases
from tests.custom_op.matrix_operator import MatrixOperator

NAME = "mlp_sigmoid"


@pytest.fixture(scope="module")
def hessian():
    case = cases.CASES[NAME]
    return custom_op.hessian(case.network, case.tensors(), case.loss, case.targets)


@pytest.mark.parametrize(("which", "count"), [("LA", 3), ("SA", 2), ("LM", 2), ("LA", 20)])
def test_against_the_dense_matrix(hessian, which, count):
    dense = cases.hessian(NAME)
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    assert values[0] < -1e-3
    found = custom_op.eigenpairs(hessian, count, which)
    np.testing.assert_allclose(found.values, values[np.argsort(order)[:count]], atol=1e-9)
    np.testing.assert_allclose(dense @ found.vectors, found.vectors * found.values, atol=1e-7)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(count), atol=1e-10)
    leading = hessian.unflatten(found.vectors[:, 0])
    np.testing.assert_allclose(
        cases.flat(hessian @ leading), found.values[0] * cases.flat(leading), atol=1e-7
    )


def test_float32_and_small_matrices():
    operator = MatrixOperator(np.diag([3.0, 1.0, -4.0]), tf.float32)
    found = custom_op.eigenpairs(operator, 3, "LM")
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, [-4, 3, 1], rtol=1e-6)
    large = MatrixOperator(np.diag(np.arange(30.0)), tf.float32)
    np.testing.assert_allclose(custom_op.eigenpairs(large, 2).values, [29, 28], rtol=1e-5)


def test_wrong_arguments_say_expected_and_got(hessian):
    with pytest.raises(ValueError, match="count from 1 to the number of parameters, 27: 28"):
        custom_op.eigenpairs(hessian, 28)
    with pytest.raises(ValueError, match=r"\['LA', 'SA', 'LM'\], got 'BE'"):
        custom_op.eigenpairs(hessian, 1, "BE")


def test_a_matrix_of_zeros():
    """A saturated network has no curvature left, in the dtype that it is in."""
    x = tf.ones([4, 30], tf.float64)
    operator = custom_op.gauss_newton(
        lambda w: tf.tanh(100 * (x @ w)), tf.ones([30, 2], tf.float64), "squared_error", x[:, :2]
    )
    found = custom_op.eigenpairs(operator, 3)
    np.testing.assert_array_equal(found.values, np.zeros(3))
    np.testing.assert_array_equal(found.vectors.T @ found.vectors, np.eye(3))
