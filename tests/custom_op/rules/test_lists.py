"""Rules of lists of tensors whose gradient TensorFlow takes for zero."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

raw = tf.raw_ops
X = np.random.default_rng(5).normal(size=(3, 2))


def _list(entries):
    return raw.TensorListFromTensor(tensor=entries, element_shape=[2])


def _stack(entries, count):
    return raw.TensorListStack(
        input_handle=entries, element_shape=[2], element_dtype=tf.float64, num_elements=count
    )


def _joined(x):
    both = raw.TensorListConcatLists(
        input_a=_list(tf.sin(x)), input_b=_list(x * x), element_dtype=tf.float64
    )
    return _stack(both, 6)


def _joined_to_a_constant(x):
    both = raw.TensorListConcatLists(
        input_a=_list(tf.constant(X[:1])), input_b=_list(x * x), element_dtype=tf.float64
    )
    return _stack(both, 4)


def _pushed_back(x):
    lists = raw.TensorListPushBackBatch(
        input_handles=tf.stack([_list(tf.sin(x)), _list(2 * x)]), tensor=tf.exp(x[1:])
    )
    first, second = tf.unstack(lists, 2)
    return _stack(first, 4) * _stack(second, 4)


def test_entries_of_a_list_that_are_chosen_twice():
    """TensorFlow's gradient keeps one of their cotangents."""

    def function(x):
        array = tf.TensorArray(tf.float64, 3, element_shape=[2]).unstack(tf.sin(x))
        return array.gather([2, 0, 2]) * array.gather([1, 2, 0])

    custom_op.check_rule(function, X, order=1)


@pytest.mark.parametrize("function", [_joined, _joined_to_a_constant, _pushed_back])
def test_lists_that_tensorflow_marks_as_not_differentiable(function):
    # A tape over the function itself would meet TensorFlow's zeros: the Hessian takes none.
    custom_op.check_rule(function, X, order=1)
    rows = 6 if function is _joined else 4
    v = np.random.default_rng(6).normal(size=X.size)

    @tf.function(autograph=False)
    def products(x):
        hessian = custom_op.hessian(function, x, "squared_error", np.ones((rows, 2)))
        return tf.reshape(hessian.gradient(), [-1]), hessian @ v

    step = 1e-5 * v.reshape(X.shape)
    ahead, behind = (products(tf.constant(X + s * step))[0] for s in (1, -1))
    np.testing.assert_allclose(products(tf.constant(X))[1], (ahead - behind) / 2e-5, rtol=1e-6)


def test_a_rule_made_of_what_has_no_gradient_is_refused():
    """In `tf.gradients` such an operation is a constant, and the transpose would be zero."""

    @custom_op.register_r_forward("Betainc")  # any operation without a rule
    def rule(op):
        return lambda *tangents: raw.ResizeBilinearGrad(
            grads=tangents[2], original_image=tf.zeros([1, 2, 2, 1])
        )

    def function(x):
        return tf.math.betainc(tf.ones_like(x), tf.ones_like(x), x)

    @tf.function(autograph=False)
    def products(x):
        linear = custom_op.linearize(function, x)
        linear.jvp(x)
        return linear.vjp(x)

    try:
        with pytest.raises(custom_op.NotDifferentiableError, match="'ResizeBilinearGrad'.*zero"):
            products(tf.fill([1, 2, 2, 1], 0.3))
    finally:
        custom_op.registry._RULES.pop("Betainc")


def test_eager_hessians_of_lists_of_unknown_shapes():
    """Sizes that operations of lists read while they are traced stay constants when it is cut."""

    def function(x):
        split = tf.TensorArray(tf.float64, 2, infer_shape=False).split(tf.sin(x), [1, 2])
        return tf.ensure_shape(split.concat(), [3, 2])

    targets, v = np.ones((3, 2)), np.arange(6.0)
    product = custom_op.hessian(function, tf.constant(X), "squared_error", targets) @ v
    # Of (sin x - 1)²/2, over three examples.
    x = X.reshape(-1)
    slope = np.cos(x) ** 2 - np.sin(x) * (np.sin(x) - 1)
    np.testing.assert_allclose(product, slope * v / 3, rtol=1e-12)
