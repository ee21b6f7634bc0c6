"""Rules of the operations that are linear in their floating inputs."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(2)
X = _random.normal(size=(4, 6))
IMAGES = _random.normal(size=(1, 4, 4, 4))


def _indexing(x):
    parts = tf.split(x, 3, axis=1)
    uneven = tf.split(x, [1, 5], axis=1)
    rows = tf.unstack(x)
    return {
        "slice": tf.slice(x, [1, 2], [2, 3]),
        "strided": x[::-2, 1::2],
        "new_axis": x[:, tf.newaxis, 3],
        "gather": tf.gather(x, [3, 0, 0], axis=1),
        "gather_rows": tf.raw_ops.Gather(params=x, indices=[1, 1]),
        "gather_batch": tf.gather(x, [[0, 1]] * 4, axis=1, batch_dims=1),
        "gather_nd": tf.gather_nd(x, [[0, 1], [3, 5], [0, 1]]),
        "split": parts[0] * parts[2],
        "split_v": uneven[1][:, :1] * uneven[0],
        "unstack": rows[0] * rows[3],
        "stack": tf.stack([rows[0], tf.ones([6], x.dtype), rows[1] ** 2], 1),
        "concat": tf.concat([x, tf.ones_like(x), x**2], 1),
        "reverse": tf.reverse(x, [1]),
        "roll": tf.roll(x, 2, 1),
        "tile": tf.tile(x, [2, 1]),
        "repeat": tf.repeat(x, 2, axis=0),
        "identity_n": tf.raw_ops.IdentityN(input=[x, x * x, tf.constant(3)])[:2],
    }


def _shaping(x):
    return {
        "reshape": tf.reshape(x, [3, -1]),
        "transpose": tf.transpose(x),
        "expand": tf.expand_dims(x, 1),
        "squeeze": tf.squeeze(x[:1]),
        "broadcast": tf.broadcast_to(x[:1], [3, 6]),
        "ensure": tf.ensure_shape(x, [None, 6]),
        "sum": tf.reduce_sum(x, 1),
        "mean": tf.reduce_mean(x, [0, 1], keepdims=True),
        "negative": -x,
        "cumsum": tf.cumsum(x, 1, exclusive=True, reverse=True),
        "identity": tf.identity(x),
        "cast": tf.cast(x, tf.float64),
        "pad": tf.pad(x, [[1, 0], [0, 2]]),
        "pad_mirror": tf.pad(x, [[1, 0], [0, 2]], "REFLECT"),
        "pad_value": tf.pad(x, [[1, 0], [0, 2]], constant_values=3.0),
        "pad_with_itself": tf.pad(x**2, [[1, 0], [0, 2]], constant_values=x[0, 0] ** 2),
        "pad_only_value": tf.pad(tf.ones([2], x.dtype), [[1, 0]], constant_values=x[0, 0]),
        "diag": tf.linalg.diag(x, padding_value=2.0),
        "diag_with_itself": tf.linalg.diag(x[0], padding_value=x[1, 1] ** 2),
        "diag_part": tf.linalg.diag_part(x**2, k=(-1, 1), padding_value=x[0, 1]),
    }


def _images(x):
    return {
        "average": tf.nn.avg_pool2d(x, 2, 2, "SAME"),
        "average_overlapping": tf.nn.avg_pool2d(x, 3, 2, "SAME"),
        "to_depth": tf.nn.space_to_depth(x, 2),
        "from_depth": tf.nn.depth_to_space(x, 2),
        "to_batch": tf.space_to_batch(x, [2, 2], [[0, 0], [2, 0]]),
        "from_batch": tf.raw_ops.BatchToSpaceND(
            input=tf.transpose(x, [3, 0, 1, 2]), block_shape=[2, 2], crops=[[0, 1], [0, 0]]
        ),
    }


CASES = {"indexing": (_indexing, X), "shaping": (_shaping, X), "images": (_images, IMAGES)}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    custom_op.check_rule(*CASES[case])


def test_average_pooling_of_volumes():
    # TensorFlow has it in float32 only.
    custom_op.check_rule(
        lambda x: tf.nn.avg_pool3d(x[..., None], 2, 2, "SAME"),
        IMAGES,
        dtype=tf.float32,
        tolerance=1e-2,
    )


def test_a_cast_carries_tangents_only_between_what_is_differentiated():
    x = tf.constant([1.5, 2.5])
    down = custom_op.jvp(lambda x: tf.cast(x, tf.float16), x, x)[1]
    assert down.dtype == tf.float16
    np.testing.assert_array_equal(down, x)
    through = custom_op.jvp(lambda x: x + tf.cast(tf.cast(x, tf.int32), tf.float32), x, x)[1]
    np.testing.assert_array_equal(through, x)


def test_complex_numbers_on_the_way():
    custom_op.check_rule(
        lambda x: tf.math.real(tf.signal.ifft(tf.signal.fft(tf.cast(x, tf.complex128)) ** 2)), X
    )
