"""Operations without a rule, custom gradients, and refusals."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

X = tf.constant(np.random.default_rng(5).normal(size=(3, 4)))
LABELS = tf.constant(np.random.default_rng(6).dirichlet(np.ones(4), size=3))


def _determinant(matrix):
    sign, logarithm = tf.linalg.slogdet(matrix)
    return sign * tf.exp(logarithm)


def _various(x):
    return {
        "power": tf.abs(x) ** 1.5,
        "norm": tf.math.l2_normalize(x, 1),
        "bessel": tf.math.special.bessel_j0(x) + tf.math.bessel_i0e(x),
        "cholesky": tf.linalg.cholesky(tf.matmul(x, x, transpose_b=True)),
        "solve": tf.linalg.solve(x[:3, :3] + 3 * tf.eye(3, dtype=x.dtype), x),
        "determinant": tf.linalg.logdet(tf.matmul(x, x, transpose_b=True)),
        "sign_and_logarithm": _determinant(x[:3, :3] - 3 * tf.eye(3, dtype=x.dtype)),
        "scatter_max": tf.tensor_scatter_nd_max(x, [[2]], x[:1] ** 2),
        "segment_max": tf.math.segment_max(x, [0, 0, 1]),
        "segment_prod": tf.math.unsorted_segment_max(x, [0, 1, 1], 2),
        "betainc": tf.math.betainc(tf.constant(2.0, x.dtype), 1.5, tf.sigmoid(x)),
        "inverse": tf.linalg.inv(x[:3, :3] + 3 * tf.eye(3, dtype=x.dtype)),
        "atan2": tf.atan2(x, 1 + x**2),
        "segments": tf.math.segment_sum(x, [0, 0, 1]),
        "sparse_entropy": tf.nn.sparse_softmax_cross_entropy_with_logits([0, 3, 1], x),
        "entropy": tf.nn.softmax_cross_entropy_with_logits(LABELS, x),
        "silu": tf.nn.silu(x),
        "gelu": tf.nn.gelu(x),
        "integers_on_the_way": x
        * tf.cast(tf.argmax(x, 1, tf.int32)[:, None] + tf.shape(x)[0] > 4, x.dtype),
    }


def test_operations_without_a_rule():
    custom_op.check_rule(_various, X)


def test_the_gradient_of_a_fused_loss():
    # Its second output is the gradient: a zero cotangent there must not be taken for none.
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.nn.sparse_softmax_cross_entropy_with_logits([0, 3, 1], x)
        return tape.gradient(value, x)

    custom_op.check_rule(gradient, X)
    s = tf.nn.softmax(X)
    _, tangent = custom_op.jvp(gradient, X, X)
    np.testing.assert_allclose(
        tangent, s * X - s * tf.reduce_sum(s * X, 1, keepdims=True), rtol=1e-12
    )


@pytest.mark.parametrize("graph", [False, True])
def test_a_custom_gradient_is_followed(graph):
    @tf.custom_gradient
    def reversed_gradient(x, y):
        return x * y, lambda u: (-u * y, 5.0 * u)

    def run(x, y):
        linear = custom_op.linearize(lambda p: reversed_gradient(*p), (x, y))
        return linear.jvp((2.0, 3.0)), linear.vjp(1.0)

    run = tf.function(run, autograph=False) if graph else run
    pushed, (to_x, to_y) = run(tf.constant(7.0), tf.constant(11.0))
    assert pushed == -2.0 * 11.0 + 3.0 * 5.0
    assert (to_x, to_y) == (-11.0, 5.0)


def test_inside_a_custom_gradient_anything_goes():
    @tf.custom_gradient
    def rounded(x):
        def upstream(u):
            return u

        # No tangent could pass this operation.
        return tf.image.adjust_contrast(x[None], 2.0)[0], upstream

    x = tf.constant([[1.0, 2.0]])
    _, tangent = custom_op.jvp(lambda x: rounded(x * x), x, tf.ones_like(x))
    np.testing.assert_allclose(tangent, [[2.0, 4.0]])


def test_nothing_of_the_trial_of_a_custom_gradient_runs():
    ran = tf.Variable(0)

    @tf.custom_gradient
    def counted(x):
        def upstream(u):
            ran.assign_add(1)
            return u

        return tf.identity(x), upstream

    @tf.function(autograph=False)
    def run(x):
        return custom_op.linearize(counted, x).outputs

    run(tf.constant(1.0))
    assert ran.numpy() == 0


def _contrast(x):
    return tf.image.adjust_contrast(tf.cast(x, tf.float32)[None], 2.0)


def _slope(function, x):
    linear = custom_op.linearize(function, x)
    return linear.vjp(tf.ones_like(linear.outputs))


REFUSED = {
    # TensorFlow has no gradient of the first, and takes the second for a constant.
    "AdjustContrastv2": _contrast,
    "HSVToRGB": lambda x: tf.image.hsv_to_rgb(x[:, :3]),
    # A gradient in one input only.
    "Betainc": lambda x: tf.math.betainc(tf.exp(x), tf.exp(x), tf.sigmoid(x)),
    "ImageProjectiveTransformV3": lambda x: tf.raw_ops.ImageProjectiveTransformV3(
        images=x[None, :, :, None],
        transforms=[[1.1, 0.1, -0.3, 0.2, 0.9, 0.1, 0.0, 0.0]],
        output_shape=[3, 3],
        interpolation="BILINEAR",
        fill_value=0.0,
    ),
    # A gradient that leaves out an output, which is the gradient.
    "CTCLoss": lambda x: _slope(
        lambda x: tf.nn.ctc_loss(
            tf.sparse.from_dense(tf.constant([[1, 2]])), x[:, None], None, [3], blank_index=0
        ),
        tf.cast(x, tf.float32),
    ),
    "EagerPyFunc": lambda x: tf.py_function(tf.sin, [x], x.dtype),
    # Loops of TensorFlow 1.
    "body_": lambda x: _slope(
        lambda x: tf.nn.ctc_loss([[1, 2]], x[:, None], [2], [3], blank_index=0),
        tf.cast(x, tf.float32),
    ),
    # A gradient without a gradient.
    "Dilation2D": lambda x: tf.nn.dilation2d(
        x[None, :, :, None], tf.ones([2, 2, 1], x.dtype), [1] * 4, "SAME", "NHWC", [1] * 4
    ),
}


@pytest.mark.parametrize("op_type", REFUSED)
def test_refusals_name_the_operation(op_type):
    def run(x):
        return custom_op.jvp(REFUSED[op_type], x, x)[1]

    with pytest.raises(custom_op.NotDifferentiableError, match=f"operation '{op_type}"):
        run(X)
    with pytest.raises(custom_op.NotDifferentiableError, match=f"operation '{op_type}"):
        tf.function(run, autograph=False)(X)


def test_refusals_name_the_layer_and_the_way_out():
    def network(x):
        with tf.name_scope("encoder"), tf.name_scope("contrast"):
            return _contrast(x)

    with pytest.raises(custom_op.NotDifferentiableError) as caught:
        custom_op.jvp(network, X, X)
    text = str(caught.value)
    assert "scope 'encoder/contrast" in text
    assert "custom_op.register_r_forward('AdjustContrastv2')" in text
    with pytest.raises(custom_op.NotDifferentiableError, match="input 'a'.*tf.stop_gradient"):
        custom_op.jvp(REFUSED["Betainc"], X, X)


def test_recomputed_gradients_are_refused_with_the_way_out():
    # TensorFlow's own function for it has first derivatives only.
    layer = tf.recompute_grad(lambda x: tf.tanh(x) * x)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = layer(x)
        return tape.gradient(value, x)

    for function in (layer, gradient):
        with pytest.raises(custom_op.NotDifferentiableError, match="custom_op.checkpoint"):
            custom_op.jvp(function, X, X)


def test_the_text_survives_autograph():
    @tf.function
    def run(x):
        return custom_op.jvp(_contrast, x, x)[1]

    with pytest.raises(Exception, match="No tangent passes the operation 'AdjustContrastv2'"):
        run(X)


def test_a_loop_that_carries_no_tangent_is_no_obstacle():
    def network(x):
        factor = tf.while_loop(lambda i: i < 5, lambda i: (i + 1,), (tf.constant(0),))[0]
        return x * tf.cast(factor, x.dtype)

    run = tf.function(lambda x: custom_op.jvp(network, x, x)[1], autograph=False)
    np.testing.assert_allclose(run(X), 5 * X)
