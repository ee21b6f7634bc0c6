"""The losses' closed forms against TensorFlow's own loss functions, tapes and dense matrices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from custom_op import losses
from custom_op.losses import registry as known_losses

_random = np.random.default_rng(3)
_Z = _random.normal(size=(4, 3))
_SOFT = _random.uniform(size=(4, 3))
_PROBABILITIES = _SOFT / _SOFT.sum(-1, keepdims=True)
_SEQUENCE = _random.normal(size=(2, 4, 3))

CASES = {
    "classes": ("softmax_cross_entropy", _Z, np.array([0, 2, 1, 1])),
    "probabilities": ("softmax_cross_entropy", _Z, _PROBABILITIES),
    "masses": ("softmax_cross_entropy", _Z, _SOFT),
    "sequence": ("softmax_cross_entropy", _SEQUENCE, _random.integers(0, 3, size=(2, 4))),
    "sigmoid": ("sigmoid_cross_entropy", _Z, _SOFT),
    "squared": ("squared_error", _SEQUENCE, _random.normal(size=(2, 4, 3))),
    "mean_squared": ("mean_squared_error", _Z, _SOFT),
}


def _expected_value(name, z, y):
    if name == "softmax_cross_entropy":
        log_s = z - np.log(np.exp(z).sum(-1, keepdims=True))
        one_hot = np.eye(z.shape[-1])[y] if y.dtype.kind == "i" else y
        return -(one_hot * log_s).sum(-1).mean()
    if name == "sigmoid_cross_entropy":
        p = 1 / (1 + np.exp(-z))
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    if name == "squared_error":
        return ((z - y) ** 2).sum() / 2 / len(z)
    return ((z - y) ** 2).mean()


@pytest.mark.parametrize("case", CASES)
def test_value_gradient_and_hessian(case):
    name, z, y = CASES[case]
    loss = losses.get(name)
    outputs, targets = tf.constant(z), tf.constant(y)
    loss.check(outputs, targets)

    @tf.function(autograph=False)
    def run(outputs):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = loss.value(outputs, targets)
        automatic = tape.gradient(value, outputs)
        units = tf.reshape(tf.eye(z.size, dtype=tf.float64), [z.size, *z.shape])
        rows = [loss.hessian_product(outputs, targets, unit) for unit in tf.unstack(units)]
        return value, automatic, loss.gradient(outputs, targets), tf.stack(rows)

    value, automatic, gradient, rows = run(outputs)
    np.testing.assert_allclose(value, _expected_value(name, z, y), rtol=1e-13)
    np.testing.assert_allclose(gradient, automatic, rtol=1e-12, atol=1e-15)

    step, columns = 1e-6, []
    for i in range(z.size):
        moved = np.zeros(z.size)
        moved[i] = step
        moved = moved.reshape(z.shape)
        ahead = loss.gradient(tf.constant(z + moved), targets)
        behind = loss.gradient(tf.constant(z - moved), targets)
        columns.append(((ahead - behind) / (2 * step)).numpy().reshape(-1))
    dense = rows.numpy().reshape(z.size, z.size)
    np.testing.assert_allclose(dense, np.stack(columns, 1), atol=1e-9)
    np.testing.assert_array_equal(dense, dense.T)


@pytest.mark.parametrize("case", ["probabilities", "masses", "sigmoid", "squared"])
def test_gradient_in_the_labels(case):
    name, z, y = CASES[case]
    loss = losses.get(name)
    direction = _random.normal(size=y.shape)
    targets = tf.constant(y)
    with tf.GradientTape() as tape:
        tape.watch(targets)
        value = loss.value(tf.constant(z), targets)
    slope = tf.reduce_sum(tape.gradient(value, targets) * direction)
    step = 1e-6
    difference = _expected_value(name, z, y + step * direction) - _expected_value(
        name, z, y - step * direction
    )
    np.testing.assert_allclose(slope, difference / (2 * step), rtol=1e-7)


def test_the_names_agree_with_keras():
    z, y = tf.constant(_Z), tf.constant(_PROBABILITIES)
    pairs = {
        "mean_squared_error": keras.losses.mean_squared_error(y, z),
        "sigmoid_cross_entropy": keras.losses.binary_crossentropy(y, z, from_logits=True),
        "softmax_cross_entropy": keras.losses.categorical_crossentropy(y, z, from_logits=True),
    }
    for name, expected in pairs.items():
        np.testing.assert_allclose(losses.get(name).value(z, y), tf.reduce_mean(expected), 1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_large_logits(dtype):
    z = tf.constant([[0.0, 1000.0], [1000.0, 0.0]], dtype)
    loss = losses.get("softmax_cross_entropy")
    y = tf.constant([0, 0])
    np.testing.assert_allclose(loss.value(z, y), 500.0)
    np.testing.assert_allclose(loss.gradient(z, y), [[-0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_array_equal(loss.hessian_product(z, y, tf.ones_like(z)), np.zeros((2, 2)))
    sigmoid = losses.get("sigmoid_cross_entropy")
    z = tf.constant([1000.0, -1000.0, 20.0], dtype)
    y = tf.constant([0.0, 0.0, 1.0], dtype)
    expected = np.array([1000.0, 0.0, np.log1p(np.exp(-20.0))])
    np.testing.assert_allclose(sigmoid.value(z, y), expected.mean())
    # In float32 too the small loss of a confident answer keeps its digits.
    np.testing.assert_allclose(sigmoid.value(z[2:], y[2:]), expected[2], rtol=1e-5)
    assert sigmoid.value(z, y).dtype == dtype


def test_integer_and_float32_targets_are_cast():
    z = tf.constant(_Z)
    labels = np.array([[0, 1, 0]] * 4)
    for name in ("sigmoid_cross_entropy", "squared_error", "mean_squared_error"):
        loss = losses.get(name)
        np.testing.assert_allclose(
            loss.gradient(z, tf.constant(labels)), loss.gradient(z, tf.constant(labels * 1.0))
        )


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "squared_error", "mean_squared_error"])
def test_an_unknown_batch_is_counted(name):
    loss = losses.get(name)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 3], tf.float64)] * 2)
    def run(z, y):
        return loss.value(z, y), loss.gradient(z, y), loss.hessian_product(z, y, z)

    z, y = tf.constant(_Z), tf.constant(_SOFT)
    for got, expected in zip(
        run(z, y),
        (loss.value(z, y), loss.gradient(z, y), loss.hessian_product(z, y, z)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_targets_that_do_not_fit():
    z = tf.zeros([4, 3])
    softmax = losses.get("softmax_cross_entropy")
    with pytest.raises(ValueError, match=r"integer targets of shape \(4,\).*got \(4, 3\)"):
        softmax.check(z, tf.zeros([4, 3], tf.int32))
    with pytest.raises(ValueError, match=r"shape \(4, 3\), got \(4,\)"):
        softmax.check(z, tf.zeros([4]))
    with pytest.raises(ValueError, match=r"\[..., K\], got \(\)"):
        softmax.check(tf.zeros([]), tf.zeros([], tf.int32))
    with pytest.raises(ValueError, match=r"SquaredError expected .*\(4, 3\), got \(4, 1\)"):
        losses.get("squared_error").check(z, tf.zeros([4, 1]))


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_refused(name, dtype):
    z = tf.zeros([2, 3], dtype)
    with pytest.raises(TypeError, match=f"float32 or float64, got {dtype.name}"):
        losses.get(name).check(z, z)


def test_register_and_get(monkeypatch):
    monkeypatch.setattr(known_losses, "_LOSSES", dict(known_losses._LOSSES))

    class Doubled(losses.SquaredError):
        """Twice the squared error."""

    mine = Doubled()
    losses.register_loss("doubled", mine)
    assert losses.get("doubled") is mine
    assert losses.get(mine) is mine
    with pytest.raises(ValueError, match="'doubled' already"):
        losses.register_loss("doubled", mine)
    with pytest.raises(TypeError, match="instance of custom_op.losses.Loss"):
        losses.register_loss("class", Doubled)
    with pytest.raises(ValueError, match="'doubled'.*got 'double'"):
        losses.get("double")
