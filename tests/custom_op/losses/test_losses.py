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
    "poisson": ("poisson", _Z, _random.poisson(2.0, (4, 3))),
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
    if name == "poisson":
        return (np.exp(z) - y * z).mean()
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


@pytest.mark.parametrize("case", ["probabilities", "masses", "sigmoid", "squared", "poisson"])
def test_derivatives_in_the_labels(case):
    """Of the value, the gradient and the Hessian product alike: all are linear or quadratic."""
    name, z, y = CASES[case]
    loss, outputs = losses.get(name), tf.constant(z)
    y, direction = y.astype(float), _random.normal(size=y.shape)
    u = tf.constant(_random.normal(size=z.shape))

    def all_three(targets):
        return (
            loss.value(outputs, targets),
            tf.reduce_sum(u * loss.gradient(outputs, targets)),
            tf.reduce_sum(tf.square(loss.hessian_product(outputs, targets, u))),
        )

    targets, step = tf.constant(y), 1e-5
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(targets)
        values = all_three(targets)
    slopes = [
        tf.reduce_sum(tape.gradient(value, targets, unconnected_gradients="zero") * direction)
        for value in values
    ]
    ahead, behind = (all_three(tf.constant(y + sign * step * direction)) for sign in (1, -1))
    for slope, a, b in zip(slopes, ahead, behind, strict=True):
        np.testing.assert_allclose(slope, (a - b) / (2 * step), rtol=1e-7, atol=1e-10)
    moved = [_expected_value(name, z, y + sign * step * direction) for sign in (1, -1)]
    np.testing.assert_allclose(slopes[0], (moved[0] - moved[1]) / (2 * step), rtol=1e-7)
    if name == "softmax_cross_entropy":
        assert all(abs(slope) > 1e-3 for slope in slopes)


def test_the_names_agree_with_keras():
    z, y = tf.constant(_Z), tf.constant(_PROBABILITIES)
    pairs = {
        "mean_squared_error": keras.losses.mean_squared_error(y, z),
        "sigmoid_cross_entropy": keras.losses.binary_crossentropy(y, z, from_logits=True),
        "softmax_cross_entropy": keras.losses.categorical_crossentropy(y, z, from_logits=True),
        "poisson": keras.losses.poisson(y, tf.exp(z)),
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


_ROWS = _random.uniform(0.5, 2, size=(2, 4))
_MASK = np.array([[True, True, False, True], [False, True, False, False]])


def _weighted_cases():
    classes = _random.integers(0, 3, size=(2, 4))
    soft = _random.uniform(size=_SEQUENCE.shape)
    yield "softmax_cross_entropy", classes, _ROWS, _MASK
    yield "softmax_cross_entropy", soft, _ROWS[:, 0], None
    yield "sigmoid_cross_entropy", soft, _ROWS, _MASK
    yield "mean_squared_error", soft, None, _MASK
    yield "poisson", soft, _ROWS[:, 0], _MASK
    yield "squared_error", soft, _ROWS[:, 0], _MASK[:, 0]


@pytest.mark.parametrize(("name", "y", "weights", "mask"), list(_weighted_cases()))
def test_weights_and_masks(name, y, weights, mask):
    """Against a loop over the terms that are there."""
    loss, z = losses.get(name), _SEQUENCE
    terms = loss.terms(tf.constant(z), tf.constant(y)).numpy()
    total, there = 0.0, 0
    for index in np.ndindex(terms.shape):
        if mask is None or mask[index[: mask.ndim]]:
            there += 1
            total += terms[index] * (1 if weights is None else weights[index[: weights.ndim]])

    # What stands at masked places has no effect.
    z, y = z.copy(), np.array(y)
    if mask is not None:
        z[~mask] = np.nan
        y[~mask] = -1
        weights = None if weights is None else np.array(weights)
        if weights is not None and weights.ndim == mask.ndim:
            weights[~mask] = np.nan
    outputs, targets = tf.constant(z), tf.constant(y)
    np.testing.assert_allclose(loss.value(outputs, targets, weights, mask), total / there)

    evaluation = loss.evaluate(outputs, targets, weights, mask)
    assert evaluation.count == there
    assert evaluation.examples == (2 if mask is None else mask.reshape(2, -1).any(1).sum())
    u = tf.constant(_random.normal(size=z.shape))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        value = loss.value(outputs, targets, weights, mask)
        gradient = loss.gradient(outputs, targets, weights, mask)
        slope = tf.reduce_sum(gradient * u)
    np.testing.assert_allclose(gradient, tape.gradient(value, outputs), rtol=1e-12, atol=1e-15)
    curved = loss.hessian_product(outputs, targets, u, weights, mask)
    expected = tape.gradient(slope, outputs)
    expected = np.zeros(z.shape) + expected if expected is not None else None
    np.testing.assert_allclose(curved, expected, rtol=1e-11, atol=1e-15)


def test_weights_and_masks_are_those_of_keras():
    """`sum_over_batch_size`: weights do not count, masked rows do not exist."""
    z, y = _SEQUENCE.astype("float32"), _random.integers(0, 3, size=(2, 4))
    function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = _ROWS.astype("float32")
    got = losses.get("softmax_cross_entropy").value(tf.constant(z), tf.constant(y), weights)
    np.testing.assert_allclose(got, function(y, z, sample_weight=weights), rtol=1e-6)
    masked = tf.constant(z)
    masked._keras_mask = tf.constant(_MASK)
    got = losses.get("softmax_cross_entropy").value(tf.constant(z), tf.constant(y), None, _MASK)
    np.testing.assert_allclose(got, function(y, masked), rtol=1e-6)


def test_a_batch_that_is_masked_out_is_zero():
    loss, z, nowhere = losses.get("poisson"), tf.constant(_Z), np.zeros(4, bool)
    assert loss.value(z, z, None, nowhere) == 0
    np.testing.assert_array_equal(loss.gradient(z, z, None, nowhere), 0 * _Z)


def test_weights_and_masks_that_do_not_fit():
    z, loss = tf.constant(_Z), losses.get("softmax_cross_entropy")
    y = tf.constant([0, 2, 1, 1])
    with pytest.raises(ValueError, match=r"weights of shape \(4,\), or .* got \(4, 3\)"):
        loss.evaluate(z, y, weights=tf.ones([4, 3]))
    with pytest.raises(ValueError, match=r"a mask of shape \(4,\), or .* got \(3,\)"):
        loss.evaluate(z, y, mask=np.ones(3, bool))
    with pytest.raises(ValueError, match=r"got \(\)"):
        loss.evaluate(z, y, weights=2.0)
    with pytest.raises(TypeError, match="boolean mask, got float64"):
        loss.evaluate(z, y, mask=np.ones(4))

    class Plain(losses.Loss):
        def value(self, outputs, targets):
            return tf.reduce_mean(outputs - targets)

        def gradient(self, outputs, targets):
            return tf.ones_like(outputs) / 12

        def hessian_product(self, outputs, targets, vector):
            return 0 * vector

    with pytest.raises(ValueError, match="Plain takes no weights"):
        Plain().evaluate(z, z, weights=np.ones(4))
    with pytest.raises(TypeError, match="MeanLoss, whose sample.* got Plain"):
        Plain().evaluate(z, z).sampled_gradients(0, 0, 1)


@pytest.mark.parametrize(
    "case", ["classes", "masses", "sigmoid", "squared", "mean_squared", "poisson"]
)
def test_sampled_gradients_have_the_hessian_as_covariance(case):
    name, z, y = CASES[case]
    loss, samples = losses.get(name), 20000
    # One example is enough, and a second one checks that its draws are its own.
    z, y = z[:2] * 0.5, y[:2]
    evaluation = loss.evaluate(tf.constant(z), tf.constant(y))
    r = evaluation.sampled_gradients(7, 0, samples).numpy()
    assert r.shape == (samples, *z.shape)
    size = z[0].size
    first, second = r.reshape(samples, 2, size).transpose(1, 0, 2)
    units = np.eye(size).reshape(size, *z[0].shape)
    zero = np.zeros_like(units)
    products = [
        loss.term_hessian_products(
            tf.constant(z), tf.constant(y), tf.constant(np.stack([unit, empty]))
        )
        for unit, empty in zip(units, zero, strict=True)
    ]
    hessian = np.stack([product.numpy()[0].reshape(-1) for product in products])
    squares = first[:, :, None] * first[:, None, :]
    error = 5 * squares.std(0) / np.sqrt(samples) + 1e-12
    # Across terms the Hessian is zero, and so is the covariance of independent draws.
    assert np.all(np.abs(squares.mean(0) - hessian) < error)
    assert np.all(np.abs(first.mean(0)) < 5 * first.std(0) / np.sqrt(samples) + 1e-12)
    correlation = (first[:, 0] * second[:, 0]).mean() / (first[:, 0].std() * second[:, 0].std())
    assert abs(correlation) < 5 / np.sqrt(samples)


def test_draws_depend_on_the_seed_and_the_example_alone():
    z = tf.constant(np.repeat(_Z[:1], 4, 0))
    whole = losses.get("squared_error").evaluate(z, z).sampled_gradients(3, 10, 2)
    part = losses.get("squared_error").evaluate(z[2:], z[2:]).sampled_gradients(3, 12, 2)
    np.testing.assert_array_equal(whole[:, 2:], part)
    other = losses.get("squared_error").evaluate(z, z).sampled_gradients(4, 10, 2)
    assert np.min(np.abs(whole - other)) > 0
    assert len(np.unique(whole)) == whole.numpy().size
