import numpy as np
import pytest

import custom_op
from tests.custom_op import cases
from tests.custom_op.matrix_operator import MatrixOperator

_random = np.random.default_rng(2)
_BASIS = np.linalg.qr(_random.normal(size=(40, 40)))[0]
# Eigenvalues that fall off, as those of networks do.
_DECAYING = (_BASIS * 0.5 ** np.arange(40)) @ _BASIS.T


def test_of_a_network():
    case = cases.CASES["mlp_sigmoid"]
    operator = custom_op.hessian(case.network, case.tensors(), case.loss, case.targets)
    expected = np.trace(cases.hessian("mlp_sigmoid"))
    found = custom_op.trace(operator, 15)
    assert 0 < found.standard_error < 0.2 * abs(expected)
    assert abs(found.value - expected) < 5 * found.standard_error
    exact = custom_op.trace(operator, 27)
    assert exact.standard_error == 0
    np.testing.assert_allclose(exact.value, expected, atol=1e-9)


def test_it_is_unbiased_and_its_error_is_the_spread():
    matrix = _DECAYING + 0.05 * (_BASIS * _random.normal(size=40)) @ _BASIS.T
    found = [custom_op.trace(MatrixOperator(matrix), 18, seed=seed) for seed in range(40)]
    values = np.array([estimate.value for estimate in found])
    errors = np.array([estimate.standard_error for estimate in found])
    assert abs(values.mean() - np.trace(matrix)) < 4 * values.std() / np.sqrt(len(values))
    assert 0.6 < np.sqrt(np.mean(errors**2)) / values.std() < 1.6


def test_it_beats_signs_alone():
    operator = MatrixOperator(_DECAYING)
    mine = [custom_op.trace(operator, 18, seed=seed).value for seed in range(10)]
    signs = np.sign(_random.normal(size=(10, 40, 18)))
    plain = np.einsum("spk,pq,sqk->s", signs, _DECAYING, signs) / 18
    error = np.abs(np.array(mine) - np.trace(_DECAYING)).max()
    assert error < 0.1 * np.abs(plain - np.trace(_DECAYING)).max()


def test_the_products_are_as_many_as_asked_for():
    operator = MatrixOperator(np.eye(40))
    operator._products = lambda rows: (counted.append(rows.shape[0]), rows)[1]
    counted = []
    found = custom_op.trace(operator, 20)
    assert abs(found.value - 40) < 5 * found.standard_error
    assert sum(counted) == 20
    with pytest.raises(ValueError, match="at least 4 products, got 3"):
        custom_op.trace(operator, 3)
