"""Rules of resizing, which TensorFlow differentiates once and no more."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(9)
IMAGES = _random.normal(size=(1, 4, 3, 2))
SETTINGS = {"dtype": tf.float32, "tolerance": 1e-2}


def _resized(x):
    # The kernels hand back float32 from float64 images.
    nearest = tf.raw_ops.ResizeNearestNeighborGrad(grads=x**2, size=[3, 2])
    return {
        "bilinear": tf.image.resize(x**2, (6, 5)),
        "bilinear_down": tf.image.resize(x, (2, 2)),
        "bilinear_corners": tf.raw_ops.ResizeBilinear(images=x, size=[7, 5], align_corners=True),
        "bicubic": tf.image.resize(x**2, (3, 5), "bicubic"),
        "nearest": tf.image.resize(x**2, (8, 6), "nearest"),
        "bilinear_gradient": tf.raw_ops.ResizeBilinearGrad(
            grads=x**2, original_image=tf.zeros([1, 2, 5, 2], x.dtype), half_pixel_centers=True
        ),
        "bicubic_gradient": tf.raw_ops.ResizeBicubicGrad(
            grads=x**2, original_image=tf.zeros([1, 2, 5, 2], x.dtype)
        ),
        "nearest_gradient": nearest,
        "lanczos": tf.image.resize(x**2, (6, 2), "lanczos3"),
        "antialiased": tf.image.resize(x, (2, 2), antialias=True),
        "crop": tf.image.crop_and_resize(
            x**2, [[0.1, 0.2, 0.9, 0.8], [0.0, 0.5, 0.5, 1.0]], [0, 0], [3, 2]
        ),
    }


CASES = {"resized": (_resized, IMAGES, SETTINGS)}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    function, inputs, settings = CASES[case]
    custom_op.check_rule(function, inputs, **settings)


def _interpolation(new, old):
    """The matrix of linear interpolation between pixel centres."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(at.astype(int), old - 2)
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] = 1 - (at - low)
    matrix[np.arange(new), low + 1] += at - low
    return matrix


def test_the_hessian_of_a_function_of_a_resized_image():
    """Second derivatives through the resizing: where TensorFlow's own are missing."""
    rows, columns = _interpolation(6, 4), _interpolation(5, 3)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(tf.image.resize(x, (6, 5)) ** 3)
        return tape.gradient(value, x)

    x, v = (tf.cast(_random.normal(size=(1, 4, 3, 2)), tf.float32) for _ in range(2))
    got = custom_op.jvp(gradient, x, v)[1]
    resized = np.einsum("ih,jw,bhwc->bijc", rows, columns, x)
    pushed = np.einsum("ih,jw,bhwc->bijc", rows, columns, v)
    expected = np.einsum("ih,jw,bijc->bhwc", rows, columns, 6 * resized * pushed)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_float64_image():
    x = tf.constant(IMAGES)
    linear = custom_op.linearize(lambda x: tf.image.resize(x, (6, 5)), x)
    pushed = linear.jvp(x)
    assert pushed.dtype == tf.float32 and linear.vjp(pushed).dtype == tf.float64
    np.testing.assert_allclose(pushed, linear.outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("jit", [False, True])
def test_products_in_a_loop(jit, method):
    """The pair of kernels is made of custom gradients, which loops and XLA have to take."""
    x = tf.constant(IMAGES, tf.float32)

    @tf.function(autograph=False, jit_compile=jit)
    def run(x):
        linear = custom_op.linearize(lambda x: tf.image.resize(tf.sin(x), (8, 6), method), x)
        product = linear.vjp(linear.jvp(x))
        return product, tf.while_loop(
            lambda i, v: i < 2, lambda i, v: (i + 1, linear.vjp(linear.jvp(v))), (0, x)
        )[1]

    once, twice = run(x)
    linear = custom_op.linearize(lambda x: tf.image.resize(tf.sin(x), (8, 6), method), x)
    expected = linear.vjp(linear.jvp(linear.vjp(linear.jvp(x))))
    np.testing.assert_allclose(twice, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(once, linear.vjp(linear.jvp(x)), rtol=1e-4, atol=1e-5)


def test_boxes_that_move_are_refused():
    def crop(boxes):
        return tf.image.crop_and_resize(tf.ones([1, 3, 3, 1]), boxes, [0], [2, 2])

    with pytest.raises(custom_op.NotDifferentiableError, match="linear in the image only"):
        custom_op.jvp(crop, tf.ones([1, 4]), tf.ones([1, 4]))
