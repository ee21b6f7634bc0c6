"""Rules of choosing, scattering, segments and sequences."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(2)
X = _random.normal(size=(4, 6))


def _indexing(x):
    return {
        "slice": tf.slice(x, [1, 2], [2, 3]),
        "strided": x[::-2, 1::2],
        "new_axis": x[:, tf.newaxis, 3],
        "gather": tf.gather(x, [3, 0, 0], axis=1),
        "gather_rows": tf.raw_ops.Gather(params=x, indices=[1, 1]),
        "gather_batch": tf.gather(x, [[0, 1]] * 4, axis=1, batch_dims=1),
        "gather_nd": tf.gather_nd(x, [[0, 1], [3, 5], [0, 1]]),
        "top_k": tf.math.top_k(x, 2).values,
        "sort": tf.sort(x, 1),
        "partition": tf.dynamic_partition(x, [0, 1, 1, 0], 2)[1],
        "one_hot": tf.one_hot([1, 0, -1], 3, x[0, 0], x[1, 1] ** 2, dtype=x.dtype),
        "linspace": tf.raw_ops.LinSpace(start=x[0, 0], stop=x[0, 1] ** 2, num=4),
        "range": tf.range(x[0, 0], x[0, 0] + 3.5, 1 + 0.01 * x[1, 0]),
    }


def _scattering(x):
    row = x[0] ** 2
    settings = {"begin_mask": 0, "end_mask": 0, "ellipsis_mask": 0, "new_axis_mask": 0}
    rows = {"indices": [0, 3, 0], "segment_ids": [0, 0, 1], "output_dim0": 5}
    return {
        "scatter": tf.scatter_nd([[3], [0], [3]], x[:3] ** 2, [5, 6]),
        "add": tf.tensor_scatter_nd_add(x, [[1], [1]], x[:2] ** 2),
        "sub": tf.tensor_scatter_nd_sub(x, [[1], [2]], tf.constant(X[:2])),
        "update": tf.tensor_scatter_nd_update(x, [[3], [1]], x[:2] ** 2),
        "update_a_constant": tf.tensor_scatter_nd_update(tf.constant(X), [[3]], x[:1] ** 2),
        "max": tf.tensor_scatter_nd_max(x, [[3]], x[:1] ** 2),
        "non_aliasing": tf.raw_ops.ScatterNdNonAliasingAdd(
            input=x, indices=[[1], [1]], updates=x[:2] ** 2
        ),
        "slice_gradient": tf.raw_ops.StridedSliceGrad(
            shape=[8], begin=[1], end=[7], strides=[1], dy=row, **settings
        ),
        "slice_update": tf.raw_ops.TensorStridedSliceUpdate(
            input=x, begin=[1], end=[3], strides=[1], value=x[:2] ** 2
        ),
        "diagonal_2": tf.raw_ops.MatrixSetDiagV2(input=x, diagonal=x[:, 0] ** 2, k=0),
        "diagonal_3": tf.linalg.set_diag(x, x[:3, 0] ** 2, k=-1),
        "segments": tf.math.segment_sum(x, [0, 0, 1, 3]),
        "segment_means": tf.math.segment_mean(x, [0, 0, 1, 1]),
        "segments_unsorted": tf.math.unsorted_segment_sum(x, [2, 0, 2, -1], 3),
        "embedding_sum": tf.sparse.segment_sum(x, [0, 3, 0], [0, 0, 1]),
        "embedding_mean": tf.sparse.segment_mean(x, [0, 3, 0], [0, 0, 1]),
        "embedding_sqrt": tf.sparse.segment_sqrt_n(x, [0, 3, 0], [0, 0, 1]),
        "gradient_of_sum": tf.raw_ops.SparseSegmentSumGrad(grad=x[:2] ** 2, **rows),
        "gradient_of_mean": tf.raw_ops.SparseSegmentMeanGrad(grad=x[:2] ** 2, **rows),
        "gradient_of_sqrt": tf.raw_ops.SparseSegmentSqrtNGrad(grad=x[:2] ** 2, **rows),
        "stitch": tf.dynamic_stitch([[0, 2], [1, 2]], [x[:2], x[2:] ** 2]),
        "stitch_parallel": tf.raw_ops.ParallelDynamicStitch(
            indices=[[0], [1, 2]], data=[x[:1], x[2:] ** 2]
        ),
    }


CASES = {"choosing": (_indexing, X), "scattering": (_scattering, X)}


# Linear maps: their second derivatives say little.
@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_rule(case, order):
    custom_op.check_rule(*CASES[case], order=order)


@pytest.mark.parametrize("kind", ["sum", "mean", "sqrt_n"])
def test_hessians_of_segments_of_rows(kind):
    """TensorFlow's gradient of these kernels has no gradient."""
    function = getattr(tf.sparse, f"segment_{kind}")
    x = X[:3, :2]

    def network(x):
        return tf.ensure_shape(function(tf.sin(x), [2, 0, 1, 2], [0, 0, 1, 3]), [4, 2])

    def gradient_inside(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x, [2, 0, 2], [0, 0, 1])
        return tape.gradient(y, x, tf.sin(y))

    custom_op.check_rule(gradient_inside, x, order=1)

    @tf.function(autograph=False)
    def products(x):
        hessian = custom_op.hessian(network, x, "squared_error", np.ones((4, 2)))
        return hessian.gradient(), hessian.to_dense()

    dense = products(tf.constant(x))[1]
    for i, unit in enumerate(np.eye(6)):
        step = 1e-5 * unit.reshape(x.shape)
        ahead, behind = (products(tf.constant(x + s * step))[0] for s in (1, -1))
        difference = tf.reshape(ahead - behind, [-1]) / 2e-5
        np.testing.assert_allclose(dense[:, i], difference, rtol=1e-6, atol=1e-8)
