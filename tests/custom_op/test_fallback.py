"""Operations without a rule, custom gradients, and refusals."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

X = tf.constant(np.random.default_rng(5).normal(size=(3, 4)))
LABELS = tf.constant(np.random.default_rng(6).dirichlet(np.ones(4), size=3))


def _various(x):
    return {
        "power": tf.abs(x) ** 1.5,
        "prod": tf.reduce_prod(x, 1),
        "max": tf.reduce_max(x, 0),
        "top_k": tf.math.top_k(x, 2).values,
        "sort": tf.sort(x, 1),
        "cumprod": tf.math.cumprod(x, 1),
        "norm": tf.math.l2_normalize(x, 1),
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
        return tf.raw_ops.LRN(input=x[None, None])[0, 0], upstream

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


def _lrn(x):
    return tf.raw_ops.LRN(input=tf.raw_ops.LRN(input=tf.cast(x, tf.float32)[None, None]))


REFUSED = {
    "LRN": _lrn,
    "ResizeBilinear": lambda x: tf.image.resize(x[None, :, :, None], (5, 6)),
    "StatelessWhile": lambda x: tf.while_loop(
        lambda i, _: i < 2, lambda i, h: (i + 1, tf.sin(h)), (0, x)
    )[1],
    "StatelessIf": lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: tf.sin(x), lambda: tf.cos(x)),
    "TensorListFromTensor": lambda x: tf.map_fn(tf.sin, x),
}


@pytest.mark.parametrize("op_type", REFUSED)
def test_refusals_name_the_operation(op_type):
    def run(x):
        return custom_op.jvp(REFUSED[op_type], x, x)[1]

    with pytest.raises(custom_op.NotDifferentiableError, match=f"operation '{op_type}'"):
        run(X)
    with pytest.raises(custom_op.NotDifferentiableError, match=f"operation '{op_type}'"):
        tf.function(run, autograph=False)(X)


def test_the_text_survives_autograph():
    @tf.function
    def run(x):
        return custom_op.jvp(_lrn, x, x)[1]

    with pytest.raises(Exception, match="No tangent passes the operation 'LRN'"):
        run(X)


def test_a_loop_that_carries_no_tangent_is_no_obstacle():
    def network(x):
        factor = tf.while_loop(lambda i: i < 5, lambda i: (i + 1,), (tf.constant(0),))[0]
        return x * tf.cast(factor, x.dtype)

    run = tf.function(lambda x: custom_op.jvp(network, x, x)[1], autograph=False)
    np.testing.assert_allclose(run(X), 5 * X)
