"""Forms of vectors, and operators in SciPy's and TensorFlow's solvers."""

import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf

import custom_op
from tests.custom_op import cases

NAME = "mlp_tanh"
DAMPING = 0.1


@pytest.fixture(scope="module")
def operator():
    case = cases.CASES[NAME]
    return custom_op.gauss_newton(case.network, case.tensors(), case.loss, case.targets)


@pytest.fixture(scope="module")
def jacobian():
    case = cases.CASES[NAME]
    return custom_op.jacobian(case.network, case.tensors())


def _damped():
    dense = cases.gauss_newton(NAME)
    return dense + DAMPING * np.eye(len(dense))


def test_columns(operator):
    columns = np.random.default_rng(0).normal(size=(operator.shape[0], 3))
    product = operator @ columns
    np.testing.assert_allclose(product, cases.gauss_newton(NAME) @ columns, atol=1e-12)
    # A matrix with one column stays one.
    assert (operator @ tf.constant(columns[:, :1])).shape == (operator.shape[0], 1)


def test_a_matrix_of_one_tensor_is_not_taken_for_columns():
    x = np.random.default_rng(1).normal(size=(5, 2))
    w = tf.constant(np.random.default_rng(2).normal(size=(2, 3)))
    operator = custom_op.gauss_newton(lambda w: x @ w, w, "squared_error", np.zeros((5, 3)))
    dense = np.kron(x.T @ x / 5, np.eye(3))
    assert (operator @ w).shape == w.shape
    np.testing.assert_allclose(operator @ w, (dense @ np.reshape(w, -1)).reshape(2, 3))
    columns = np.random.default_rng(3).normal(size=(6, 3))
    np.testing.assert_allclose(operator @ columns, dense @ columns)


def test_scipy_eigsh_and_cg(operator):
    adapted = operator.to_scipy()
    assert adapted.dtype == np.float64 and adapted.shape == operator.shape
    expected = np.linalg.eigvalsh(cases.gauss_newton(NAME))
    start = np.ones(operator.shape[0])
    largest = scipy.sparse.linalg.eigsh(adapted, 2, v0=start, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(largest), expected[-2:], rtol=1e-10)

    damped = operator.to_scipy(damping=DAMPING)
    b = np.random.default_rng(4).normal(size=operator.shape[0])
    solution, info = scipy.sparse.linalg.cg(damped, b, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(solution, np.linalg.solve(_damped(), b), rtol=1e-9, atol=1e-9)
    columns = np.stack([b, 2 * b], 1)
    np.testing.assert_allclose(damped @ columns, _damped() @ columns, atol=1e-12)


def test_scipy_lsmr_with_the_jacobian(jacobian):
    dense = cases.jacobian(NAME)
    b = np.random.default_rng(5).normal(size=dense.shape[0])
    found = scipy.sparse.linalg.lsmr(jacobian.to_scipy(), b, damp=0.3, atol=1e-14, btol=1e-14)
    system = dense.T @ dense + 0.09 * np.eye(dense.shape[1])
    np.testing.assert_allclose(found[0], np.linalg.solve(system, dense.T @ b), atol=1e-10)


def test_jacobian(jacobian):
    dense, case = cases.jacobian(NAME), cases.CASES[NAME]
    assert jacobian.shape == dense.shape and jacobian.dtype == tf.float64
    np.testing.assert_allclose(jacobian.to_dense(), dense, atol=1e-13)
    v = case.random(6)
    np.testing.assert_allclose(cases.flat(jacobian @ v), dense @ cases.flat(v))
    np.testing.assert_allclose(jacobian @ cases.flat(v), dense @ cases.flat(v))
    u = np.random.default_rng(7).normal(size=dense.shape[0])
    np.testing.assert_allclose(jacobian.rmatvec(u), dense.T @ u)
    in_form = jacobian.rmatvec(tf.reshape(tf.constant(u), jacobian.outputs.shape))
    np.testing.assert_allclose(cases.flat(in_form), dense.T @ u)
    with pytest.raises(ValueError, match=r"shape \(9,\), got \(8,\)"):
        jacobian.rmatvec(u[1:])

    tall = custom_op.jacobian(lambda w: tf.constant(dense.T) @ w[:, None], tf.constant(u))
    np.testing.assert_allclose(tall.to_dense(), dense.T)


def test_tensorflow_conjugate_gradient(operator):
    b = np.random.default_rng(8).normal(size=operator.shape[0])
    expected = np.linalg.solve(_damped(), b)
    found = tf.linalg.experimental.conjugate_gradient(
        operator.to_linear_operator(damping=DAMPING), tf.constant(b), tol=1e-12, max_iter=100
    )
    np.testing.assert_allclose(found.x, expected, atol=1e-9)

    @tf.function(autograph=False)
    def traced(parameters, b):
        case = cases.CASES[NAME]
        inside = custom_op.gauss_newton(case.network, parameters, case.loss, case.targets)
        return tf.linalg.experimental.conjugate_gradient(
            inside.to_linear_operator(damping=DAMPING), b, tol=1e-12, max_iter=100
        ).x

    got = traced(cases.CASES[NAME].tensors(), tf.constant(b))
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_linear_operator(operator):
    adapted = operator.to_linear_operator(damping=DAMPING)
    assert adapted.is_self_adjoint and adapted.is_positive_definite
    # Only what is so by construction.
    assert operator.to_linear_operator().is_positive_definite is None
    assert operator.to_linear_operator(is_positive_definite=True).is_positive_definite
    np.testing.assert_allclose(adapted.to_dense(), _damped(), atol=1e-12)
    stack = np.random.default_rng(9).normal(size=(2, operator.shape[0], 3))
    np.testing.assert_allclose(adapted.matmul(stack), _damped() @ stack, atol=1e-12)
    np.testing.assert_allclose(adapted.matmul(stack[0], adjoint=True), _damped() @ stack[0])
    vectors = stack[:, :, 0]
    np.testing.assert_allclose(adapted.matvec(vectors), vectors @ _damped(), atol=1e-12)


def test_a_hessian_claims_no_definiteness():
    w = tf.constant([1.0, 2.0])
    hessian = custom_op.hessian(lambda w: w[None] ** 2, w, "squared_error", np.zeros((1, 2), "f4"))
    assert hessian.to_linear_operator(damping=1.0).is_positive_definite is None
    np.testing.assert_allclose(hessian.to_dense(), np.diag([6.0, 24.0]))
    np.testing.assert_allclose(hessian.gradient(), [2.0, 16.0])
    np.testing.assert_allclose(hessian.loss(), 8.5)


def test_what_has_no_flat_form_says_so():
    mixed = {"a": tf.ones([2], tf.float64), "b": tf.ones([2])}
    operator = custom_op.gauss_newton(
        lambda p: tf.cast(p["a"], tf.float32)[None] * p["b"], mixed, "squared_error", [[0.0, 0.0]]
    )
    np.testing.assert_allclose(operator.matvec(mixed)["b"], [2.0, 2.0])
    for convert in (operator.to_scipy, operator.to_linear_operator, operator.to_dense):
        with pytest.raises(TypeError, match=r"one dtype, got \['float32', 'float64'\]"):
            convert()
    half = tf.ones([1, 2], tf.bfloat16)
    operator = custom_op.gauss_newton(
        lambda w: tf.cast(w, tf.float32), half, "squared_error", [[0.0, 0.0]]
    )
    with pytest.raises(TypeError, match="float32 or float64, got parameters of bfloat16"):
        operator.to_scipy()
