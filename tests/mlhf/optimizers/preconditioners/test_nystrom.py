"""The Nyström preconditioner, against dense matrices."""

import numpy as np
import tensorflow as tf

import mlhf
from mlhf.optimizers.preconditioners.nystrom import sketch

SIZE, RANK, DAMPING = 30, 6, 1e-3


def _matrix(values):
    vectors, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))
    return tf.constant(vectors * values @ vectors.T)


def _sketch(matrix, rank):
    return sketch(lambda rows: rows @ matrix, SIZE, rank, tf.float64, tf.constant([1, 2]))


def test_a_matrix_of_low_rank_is_known():
    matrix = _matrix(np.where(np.arange(SIZE) < RANK, 10.0 ** -np.arange(SIZE), 0))
    found = _sketch(matrix, RANK + 2)
    dense = tf.matmul(found.vectors * found.values, found.vectors, transpose_b=True)
    np.testing.assert_allclose(dense, matrix, atol=1e-11)
    full = _sketch(matrix, SIZE + 5)
    np.testing.assert_allclose(full.trace, np.trace(matrix), rtol=1e-10)


def test_conjugate_gradients_need_few_iterations():
    matrix = _matrix(10.0 ** (4 - np.arange(SIZE) / 2))
    b = tf.constant(np.random.default_rng(1).normal(size=SIZE))

    def iterations(preconditioner):
        solved = mlhf.conjugate_gradient(
            lambda v: tf.linalg.matvec(matrix, v) + DAMPING * v,
            b,
            preconditioner=preconditioner,
            max_iterations=200,
            tolerance=1e-8,
        )
        exact = np.linalg.solve(matrix + DAMPING * np.eye(SIZE), b)
        np.testing.assert_allclose(solved.x, exact, rtol=1e-4, atol=1e-4)
        return int(solved.iterations)

    apply = _sketch(matrix, 20).preconditioner(tf.constant(DAMPING, tf.float64))
    assert iterations(apply) <= 8 < 25 < iterations(None)


def test_products_that_are_not_finite_precondition_nothing():
    found = _sketch(tf.fill([SIZE, SIZE], tf.constant(np.nan, tf.float64)), RANK)
    v = tf.ones([SIZE], tf.float64)
    np.testing.assert_allclose(found.preconditioner(tf.constant(0.1, tf.float64))(v), v)
