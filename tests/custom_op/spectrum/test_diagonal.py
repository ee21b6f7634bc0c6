import numpy as np
import pytest
import tensorflow as tf

import custom_op
from tests.custom_op import cases
from tests.custom_op.matrix_operator import MatrixOperator


def test_of_a_network():
    case = cases.CASES["mlp_sigmoid"]
    operator = custom_op.hessian(case.network, case.tensors(), case.loss, case.targets)
    expected = np.diag(cases.hessian("mlp_sigmoid"))
    exact = custom_op.diagonal(operator)
    tf.nest.assert_same_structure(exact.value, case.parameters)
    np.testing.assert_allclose(cases.flat(exact.value), expected, atol=1e-9)
    assert not cases.flat(exact.standard_error).any()


def test_the_estimate_and_its_error():
    random = np.random.default_rng(3)
    matrix = random.normal(size=(20, 20))
    matrix = matrix + matrix.T
    found = custom_op.diagonal(MatrixOperator(matrix), 500, seed=1)
    value, error = cases.flat(found.value), cases.flat(found.standard_error)
    # The variance at i is the sum of squares beside the diagonal.
    beside = np.sqrt((matrix**2).sum(1) - np.diag(matrix) ** 2)
    np.testing.assert_allclose(error, beside / np.sqrt(500), rtol=0.15)
    standardized = (value - np.diag(matrix)) / error
    assert np.abs(standardized).max() < 4.5 and 0.6 < standardized.std() < 1.5
    other = custom_op.diagonal(MatrixOperator(matrix), 500, seed=2)
    assert np.abs(value - cases.flat(other.value)).min() > 0


def test_a_diagonal_matrix_is_found_at_once():
    found = custom_op.diagonal(MatrixOperator(np.diag(np.arange(5.0))), 2)
    np.testing.assert_allclose(cases.flat(found.value), np.arange(5))
    np.testing.assert_allclose(cases.flat(found.standard_error), 0, atol=1e-12)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        custom_op.diagonal(MatrixOperator(np.eye(5)), 1)
