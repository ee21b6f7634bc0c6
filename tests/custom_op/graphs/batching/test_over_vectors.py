"""Functions on many vectors at once, against one vector after the other."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.graphs.batching import over_vectors
from custom_op.graphs.batching.over_vectors import on_examples, on_rows
from custom_op.graphs.batching.values import NoRuleError

COUNT, SIZE = 3, 24
_random = np.random.default_rng(0)


def _constant(*shape):
    return tf.constant(_random.normal(size=shape))


A, B, BIAS = _constant(4, 6), _constant(6, 5), _constant(6)
IMAGE, KERNEL = _constant(2, 3, 4, 1), _constant(2, 2, 1, 3)
PLACES = tf.constant([3, 0, 0, 2])


def _matrix(v):
    return tf.reshape(v, [4, 6])


def _image(v):
    return tf.reshape(v, [2, 3, 4, 1])


def _kernel(v):
    return tf.reshape(v, [2, 2, 1, 6])


def _images_gradient(x, y, sizes):
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=sizes, out_backprop=y, strides=[1, 1, 1, 1], padding="SAME"
    )


# Linear functions of a vector, each with rules of its own.
LINEAR = {
    "first factor": lambda v: _matrix(v) @ B,
    "first factor, flipped": lambda v: tf.matmul(_matrix(v), A, transpose_a=True),
    "second factor": lambda v: tf.transpose(B) @ tf.reshape(v, [6, 4]),
    "second factor, flipped": lambda v: tf.matmul(A, _matrix(v), transpose_b=True),
    "einsum": lambda v: tf.einsum("ab,bc->ca", _matrix(v), B),
    "einsum, contracted": lambda v: tf.einsum("ab,ac->bc", A, _matrix(v)),
    "many matrices": lambda v: tf.reshape(v, [2, 2, 6]) @ B,
    "broadcasting": lambda v: A * _matrix(v)[0] - _matrix(v)[:, :1] / (2 + A**2),
    "slopes": lambda v: tf.raw_ops.TanhGrad(y=A, dy=_matrix(v)),
    "bias": lambda v: tf.nn.bias_add(tf.tile(_matrix(v)[:1], [4, 1]), _matrix(v)[1]),
    "sums": lambda v: tf.reduce_sum(_matrix(v), 0) * tf.reduce_mean(_matrix(v), 1, keepdims=True),
    "shapes": lambda v: tf.transpose(tf.reshape(tf.transpose(_matrix(v)), [2, 3, 4]), [2, 0, 1]),
    "joining": lambda v: tf.concat([_matrix(v), A, tf.stack(tf.unstack(_matrix(v), axis=1), 1)], 1),
    "slices": lambda v: (
        tf.pad(_matrix(v)[1:3, ::2], [[1, 0], [0, 2]]) + tf.split(A, 2, 1)[0][:3, :1]
    ),
    "gather": lambda v: (
        tf.gather(_matrix(v), PLACES) + tf.math.unsorted_segment_sum(_matrix(v), PLACES, 4)
    ),
    "running sums": lambda v: tf.cumsum(_matrix(v), 1) + tf.reverse(_matrix(v), [0]),
    "where": lambda v: tf.where(A > 0, _matrix(v), 0),
    "convolution": lambda v: tf.nn.conv2d(_image(v), KERNEL, 1, "SAME"),
    "convolution, kernel": lambda v: tf.nn.conv2d(IMAGE, _kernel(v), [1, 2], "SAME"),
    "convolution, transposed": lambda v: tf.nn.conv2d_transpose(
        tf.reshape(v, [2, 2, 2, 3]), KERNEL, [2, 2, 2, 1], 1, "SAME"
    ),
    "convolution of gradients": lambda v: _images_gradient(
        IMAGE, tf.reshape(v, [2, 3, 4, 1]), [2, 2, 1, 1]
    ),
    "pooling": lambda v: tf.nn.avg_pool2d(tf.reshape(v, [2, 3, 4, 1]), 2, 1, "VALID"),
}


def _flat(function):
    return lambda v: tf.reshape(function(v), [-1])


def test_every_rule_agrees_with_a_loop(monkeypatch):
    def refuse(self, inner, values):
        raise AssertionError(f"no rule serves {inner.type}")

    monkeypatch.setattr(over_vectors._Batched, "_one_by_one", refuse)
    rows = _constant(COUNT, SIZE)

    @tf.function(autograph=False)
    def both():
        at_once = {name: on_rows(_flat(f), rows) for name, f in LINEAR.items()}
        singly = {
            name: tf.stack([_flat(f)(row) for row in tf.unstack(rows)])
            for name, f in LINEAR.items()
        }
        return at_once, singly

    at_once, singly = both()
    for name, expected in singly.items():
        assert np.linalg.norm(expected) > 0, name
        np.testing.assert_allclose(at_once[name], expected, rtol=1e-12, atol=1e-12, err_msg=name)


def _network(w, x):
    hidden = tf.tanh(x @ tf.reshape(w[:6], [2, 3]) + w[6:9])
    # Two terms of different examples, as of an equation and its boundary.
    # Two copies of each example in one batch, as of its derivatives.
    twice = tf.reshape(tf.stack([hidden, 2 * hidden]), [-1, 3]) @ tf.reshape(w[:9], [3, 3])
    twice = tf.reshape(tf.tanh(twice + w[9:12]), [2, -1, 3])
    hidden += twice[0] * twice[1]
    edge = tf.square(hidden[3:, 0]) + hidden[3:, None][..., 1][:, 0]
    return tf.concat([hidden[:3] @ w[9:12, None], edge[:, None]], 0)


def test_one_hot_examples_are_never_written_out(monkeypatch):
    monkeypatch.setattr("custom_op.graphs.batching.values.LARGEST_DENSE", 0)
    x, w = _constant(5, 2), _constant(12)

    @tf.function(autograph=False)
    def rows():
        linearization = custom_op.linearize(lambda w: _network(w, x), w)
        identity = tf.unstack(tf.eye(5, dtype=tf.float64)[..., None])
        singly = tf.stack([linearization.vjp(row) for row in identity])
        component = tf.ones([1], tf.float64)
        return on_examples(linearization.vjp, linearization.outputs, component), singly

    at_once, singly = rows()
    np.testing.assert_allclose(at_once, singly, rtol=1e-12, atol=1e-14)


def test_examples_that_depend_on_each_other_are_written_out_or_refused(monkeypatch):
    x, w = _constant(5, 2), _constant(2, 3)

    def normalized(w):
        z = x @ w
        return z - tf.reduce_mean(z, 0)

    def rows():
        linearization = custom_op.linearize(normalized, w)
        component = tf.one_hot(1, 3, dtype=tf.float64)
        return on_examples(
            lambda u: tf.reshape(linearization.vjp(u), [-1]), linearization.outputs, component
        )

    expected = np.kron(x - np.mean(x, 0), [[0, 1, 0]])
    np.testing.assert_allclose(tf.function(rows, autograph=False)(), expected, atol=1e-14)
    monkeypatch.setattr("custom_op.graphs.batching.values.LARGEST_DENSE", 10)
    with pytest.raises(NoRuleError, match="too large"):
        tf.function(rows, autograph=False)()


def test_loops_take_the_place_of_missing_rules():
    rows = _constant(COUNT, 4)
    matrix = _constant(4, 4)
    triangle = tf.linalg.band_part(matrix, -1, 0) + 3 * tf.eye(4, dtype=tf.float64)

    def solve(v):  # an operation without a rule
        return tf.linalg.triangular_solve(triangle, v[:, None])[:, 0]

    def loop(v):  # a loop, which has none either
        return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, 2 * y), (0, v))[1]

    def all_of(rows):
        return on_rows(solve, rows), on_rows(loop, rows)

    solved, doubled = tf.function(all_of, autograph=False)(rows)
    np.testing.assert_allclose(solved, np.linalg.solve(triangle, rows.numpy().T).T, rtol=1e-12)
    np.testing.assert_allclose(doubled, 4 * rows, rtol=1e-15)
    # Nor are vectors of an unknown number taken at once.
    unknown = tf.function(
        lambda r: on_rows(solve, r),
        autograph=False,
        input_signature=[tf.TensorSpec([None, 4], tf.float64)],
    )
    np.testing.assert_allclose(unknown(rows), solved, rtol=1e-12)


def test_large_numbers_of_vectors_are_taken_in_chunks(monkeypatch):
    monkeypatch.setattr(over_vectors, "LARGEST_CHUNK", 2 * 30)
    taken, together = [], over_vectors._together

    def noted(traced, value, count):
        taken.append(count)
        return together(traced, value, count)

    monkeypatch.setattr(over_vectors, "_together", noted)
    rows = _constant(5, SIZE)
    chunked = tf.function(
        lambda: on_rows(lambda v: tf.reshape(_matrix(v) @ B, [-1]), rows), autograph=False
    )
    expected = rows.numpy().reshape(5, 4, 6) @ B.numpy()
    np.testing.assert_allclose(chunked(), expected.reshape(5, -1), rtol=1e-12)
    # Two at a time, so that the last chunk is filled up.
    assert taken == [2]
