"""Roots of Gauss-Newton matrices, against the dense matrix and gradient."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from tests.custom_op import cases


@pytest.mark.parametrize("name", ["mlp_sigmoid", "mlp_tanh"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_root_gives_matrix_and_gradient(name, weighted):
    case = cases.CASES[name]
    given = {"weights": cases.WEIGHTS, "mask": cases.MASK} if weighted else {}

    @tf.function(autograph=False)
    def root(parameters):
        operator = custom_op.gauss_newton(
            case.network, parameters, case.loss, case.targets, **given
        )
        found = operator.root()
        tangent = operator.outputs**2
        return found.rows, found.residuals, found.output_root(tf.reshape(tangent, [-1])), tangent

    rows, residuals, pushed, tangent = root(case.tensors())
    np.testing.assert_allclose(
        tf.matmul(rows, rows, transpose_a=True), cases.gauss_newton(name, weighted), atol=1e-12
    )
    gradient = tf.linalg.matvec(rows, residuals, transpose_a=True)
    np.testing.assert_allclose(gradient, cases.gradient(name, weighted), atol=1e-12)
    # The root of the loss's Hessian, of which R is the product with J.
    hessian = cases.shares(name, weighted)[:, None] * cases.loss_hessian(name)
    flat = np.reshape(tangent, -1)
    np.testing.assert_allclose(np.sum(pushed**2), flat @ hessian @ flat, rtol=1e-10)
