"""Rules of the operations that are linear in their floating inputs and keep to shapes."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(2)
X = _random.normal(size=(4, 6))
IMAGES = _random.normal(size=(1, 4, 4, 4))


def _shaping(x):
    return {
        "reshape": tf.reshape(x, [3, -1]),
        "transpose": tf.transpose(x),
        "expand": tf.expand_dims(x, 1),
        "squeeze": tf.squeeze(x[:1]),
        "broadcast": tf.broadcast_to(x[:1], [3, 6]),
        "split_and_stack": tf.stack([tf.split(x, 3, 1)[1], tf.split(x, [2, 4], 1)[0]]),
        "unstack": tf.unstack(x)[2],
        "concat": tf.concat([x, tf.ones_like(x), x**2], 1),
        "concat_old": tf.raw_ops.Concat(concat_dim=0, values=[x, x**2]),
        "reverse": tf.reverse(x, [1]),
        "reverse_lengths": tf.reverse_sequence(x, [2, 6, 0, 3], seq_axis=1),
        "roll": tf.roll(x, 2, 1),
        "tile": tf.tile(x, [2, 1]),
        "repeat": tf.repeat(x, 2, axis=0),
        "fill": tf.fill([2, 3], x[1, 1] ** 2),
        "identity_n": tf.raw_ops.IdentityN(input=[x, x * x, tf.constant(3)])[:2],
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
        "bias_gradient": tf.raw_ops.BiasAddGrad(out_backprop=x),
        "pad_mirror_gradient": tf.raw_ops.MirrorPadGrad(
            input=x, paddings=[[1, 0], [0, 2]], mode="SYMMETRIC"
        ),
        "band": tf.linalg.band_part(x, 1, 0),
        "diag": tf.linalg.diag(x, padding_value=2.0),
        "diag_with_itself": tf.linalg.diag(x[0], padding_value=x[1, 1] ** 2),
        "diag_1": tf.raw_ops.MatrixDiag(diagonal=x),
        "diag_2": tf.raw_ops.MatrixDiagV2(
            diagonal=x[0], k=1, num_rows=-1, num_cols=-1, padding_value=x[1, 1] ** 2
        ),
        "diag_flat": tf.raw_ops.Diag(diagonal=x[0]),
        "diag_part_flat": tf.raw_ops.DiagPart(input=x[:, :4]),
        "diag_part_1": tf.raw_ops.MatrixDiagPart(input=x),
        "diag_part_2": tf.raw_ops.MatrixDiagPartV2(input=x, k=[-1, 1], padding_value=x[0, 1]),
        "set_diag": tf.raw_ops.MatrixSetDiag(input=x, diagonal=x[:, 0] ** 2),
        "diag_part": tf.linalg.diag_part(x**2, k=(-1, 1), padding_value=x[0, 1]),
    }


def _blocks(x):
    return {
        "to_depth": tf.nn.space_to_depth(x, 2),
        "from_depth": tf.nn.depth_to_space(x, 2),
        "to_batch": tf.space_to_batch(x, [2, 2], [[0, 0], [2, 0]]),
        "to_batch_old": tf.raw_ops.SpaceToBatch(input=x, paddings=[[0, 0], [2, 0]], block_size=2),
        "from_batch": tf.raw_ops.BatchToSpaceND(
            input=tf.transpose(x, [3, 0, 1, 2]), block_shape=[2, 2], crops=[[0, 1], [0, 0]]
        ),
        "from_batch_old": tf.raw_ops.BatchToSpace(
            input=tf.transpose(x, [3, 0, 1, 2]), crops=[[0, 1], [0, 0]], block_size=2
        ),
        "patches": tf.image.extract_patches(x, [1, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1], "VALID"),
        "patches_of_volumes": tf.extract_volume_patches(
            x[..., None], [1, 2, 2, 1, 1], [1, 1, 1, 1, 1], "VALID"
        ),
    }


def _frequencies(x):
    def real(z):
        return tf.stack([tf.math.real(z), tf.math.imag(z)])

    z = tf.complex(x, tf.sin(x))
    return {
        "fft": real(tf.signal.fft(z)),
        "ifft": real(tf.signal.ifft(z) ** 2),
        "fft2": real(tf.signal.fft2d(z)),
        "ifft2": real(tf.signal.ifft2d(z)),
        "fft3": real(tf.signal.fft3d(z)),
        "ifft3": real(tf.signal.ifft3d(z)),
        "rfft": real(tf.signal.rfft(x)),
        "irfft": tf.signal.irfft(z),
        "rfft2": real(tf.signal.rfft2d(x)),
        "irfft2": tf.signal.irfft2d(z),
        "conjugate": real(tf.math.conj(z) * z),
        "conjugate_transpose": real(tf.linalg.adjoint(z[0])),
        "power": real(z**2 / (1 + tf.exp(z))),
    }


CASES = {
    "shaping": (_shaping, X),
    "blocks": (_blocks, IMAGES),
    "frequencies": (_frequencies, IMAGES[0]),
}


# Linear maps: their second derivatives say little.
@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_rule(case, order):
    custom_op.check_rule(*CASES[case], order=order)


def test_a_cast_carries_tangents_only_between_what_is_differentiated():
    x = tf.constant([1.5, 2.5])
    down = custom_op.jvp(lambda x: tf.cast(x, tf.float16), x, x)[1]
    assert down.dtype == tf.float16
    np.testing.assert_array_equal(down, x)
    through = custom_op.jvp(lambda x: x + tf.cast(tf.cast(x, tf.int32), tf.float32), x, x)[1]
    np.testing.assert_array_equal(through, x)
