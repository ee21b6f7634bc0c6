"""Rules of products: linear in each of two inputs."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(1)


def _normal(*shape):
    return _random.normal(size=shape)


def _matrices(p):
    x, y = p
    stacked = tf.stack([x, 2 * x])
    return {
        "matmul": tf.matmul(x, y),
        "transposed": tf.matmul(x, x, transpose_b=True),
        "left_constant": tf.matmul(tf.ones([2, 3], x.dtype), y),
        "batch": tf.matmul(stacked, stacked, transpose_a=True),
        "batch_broadcast": tf.matmul(stacked, y),
        "batch_1": tf.raw_ops.BatchMatMul(x=stacked, y=stacked, adj_y=True),
        "batch_3": tf.raw_ops.BatchMatMulV3(x=stacked, y=y, Tout=tf.float64),
        "einsum": tf.einsum("bi,ij->bj", x, y),
        "einsum_same": tf.einsum("bi,ci->bc", x, x),
        "einsum_three": tf.einsum("bi,ij,bj->b", x, y, tf.sin(tf.matmul(x, y))),
        "einsum_one": tf.einsum("bi->ib", x),
    }


CASES = {
    "matrices": (_matrices, (_normal(2, 3), _normal(3, 3))),
    "vectors": (lambda p: tf.linalg.cross(*p), (_normal(2, 3), _normal(2, 3))),
    "sparse": (
        lambda p: tf.raw_ops.SparseMatMul(a=p[0], b=p[1], transpose_b=True),
        (_normal(2, 3), _normal(4, 3)),
        {"dtype": tf.float32, "tolerance": 1e-2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    function, inputs, *settings = CASES[case]
    custom_op.check_rule(function, inputs, **dict(*settings))
