"""Losses of `compile`: in closed form or by an automatic Hessian, as `evaluate` computes them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
import mlhf
from mlhf.keras import losses
from tests.mlhf.keras.small_models import CROSS_ENTROPY, ONE_HOT, L, X, Y, fit, sgd

K = keras.losses
RANDOM = np.random.default_rng(0)
OUTPUTS = RANDOM.normal(size=(5, 4))
TARGETS = RANDOM.normal(size=(5, 4))


def ending_in(activation):
    keras.utils.set_random_seed(1)
    hidden = L.Dense(4, activation="tanh")
    return keras.Sequential([keras.Input([6]), hidden, L.Dense(3, activation=activation)])


def fourth_power(targets, outputs):
    return tf.reduce_mean((targets - outputs) ** 4, -1)


GIVEN = {
    "name behind a softmax": ("sparse_categorical_crossentropy", "softmax", Y),
    "object from logits": (CROSS_ENTROPY, None, Y),
    "one-hot with smoothing": (K.CategoricalCrossentropy(label_smoothing=0.1), "softmax", ONE_HOT),
    "a name by shapes": ("crossentropy", "softmax", Y),
    "binary behind a sigmoid": ("binary_crossentropy", "sigmoid", ONE_HOT),
    "function": (K.mean_squared_error, None, ONE_HOT),
    "Huber": (K.Huber(delta=0.5), None, ONE_HOT),
    "log-cosh": ("log_cosh", None, ONE_HOT),
    "Kullback-Leibler": ("kl_divergence", "softmax", ONE_HOT),
    "rates": ("poisson", "exponential", ONE_HOT),
    "of one's own": (fourth_power, None, ONE_HOT),
}
CLOSED = {"function": "MeanSquaredError", "binary behind a sigmoid": "SigmoidCrossEntropy"}


@pytest.mark.parametrize("name", GIVEN)
def test_the_loss_of_a_step_is_that_of_evaluate(name):
    loss, activation, targets = GIVEN[name]
    model = ending_in(activation)
    mlhf.keras.compile(model, sgd(), loss)
    weights = np.linspace(0, 2, len(X)).astype("float32")
    expected = model.evaluate(X, targets, len(X), 0, sample_weight=weights)
    history = fit(model, X, targets, batch_size=len(X), sample_weight=weights)
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)
    kind = type(losses.resolve(loss).loss).__name__ if name != "a name by shapes" else ""
    assert (kind == "AutomaticLoss") == (
        name in ("Huber", "log-cosh", "Kullback-Leibler", "rates", "of one's own")
    )


@pytest.mark.parametrize("loss", [K.Huber(delta=0.5), K.LogCosh(), fourth_power])
def test_the_automatic_hessian_is_that_of_the_mean_loss(loss):
    own = losses.resolve(loss).loss
    z, y = tf.constant(OUTPUTS), tf.constant(TARGETS)
    weights = tf.constant(np.linspace(0.5, 2, 5))
    evaluation = own.evaluate(z, y, weights)

    def mean(outputs):
        compare = loss.call if isinstance(loss, K.Loss) else loss
        return tf.reduce_mean(weights * compare(y, outputs))

    with tf.GradientTape() as outer:
        outer.watch(z)
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = mean(z)
        gradient = tape.gradient(value, z)
    hessian = tf.reshape(outer.jacobian(gradient, z), [20, 20])
    vector = tf.constant(RANDOM.normal(size=(5, 4)))
    expected = tf.reshape(tf.linalg.matvec(hessian, tf.reshape(vector, [20])), [5, 4])
    np.testing.assert_allclose(evaluation.value(), value, rtol=1e-12)
    np.testing.assert_allclose(evaluation.gradient(), gradient, rtol=1e-10)
    assert np.any(expected != 0)
    np.testing.assert_allclose(evaluation.hessian_product(vector), expected, rtol=1e-9, atol=1e-15)


def test_a_hessian_free_step_on_huber_is_the_dense_one():
    model = keras.Sequential([keras.Input([6]), L.Dense(3, use_bias=False)])
    mlhf.keras.compile(model, mlhf.HessianFree(1.0, damping=0.1, cg_iterations=60), K.Huber(0.5))
    x, y = X[:10], ONE_HOT[:10]
    before = tf.convert_to_tensor(model.trainable_variables[0])
    with tf.GradientTape() as outer:
        outer.watch(before)
        with tf.GradientTape() as tape:
            tape.watch(before)
            value = K.Huber(0.5)(y, x @ before)
        gradient = tape.gradient(value, before)
    # The network is linear, so that the Gauss-Newton matrix is the Hessian.
    matrix = tf.reshape(outer.jacobian(gradient, before), [18, 18]) + 0.1 * tf.eye(18)
    step = tf.linalg.solve(matrix, tf.reshape(gradient, [18, 1]))
    fit(model, x, y, batch_size=10)
    moved = before - tf.convert_to_tensor(model.trainable_variables[0])
    np.testing.assert_allclose(moved, tf.reshape(step, [6, 3]), rtol=2e-3, atol=1e-5)


def test_k_fac_says_that_it_can_draw_no_targets():
    model = ending_in(None)
    mlhf.keras.compile(model, "kfac", "huber")
    with pytest.raises(ValueError, match="the loss huber does not say how targets are distributed"):
        fit(model, X, ONE_HOT)


REFUSED = {
    "softmax_cross_entropy": (ValueError, "a name of custom_op.losses: .*SparseCategorical"),
    "nonsense": (ValueError, "got 'nonsense', which keras.losses does not have"),
    "sum": (ValueError, "reduction 'sum_over_batch_size', got 'sum'"),
    "huber sum": (ValueError, "reduction 'sum_over_batch_size', got 'sum'"),
    "own": (TypeError, "a loss as model.compile takes it"),
    "class": (TypeError, "a loss as model.compile takes it"),
    "none": (ValueError, "Expected a loss to train with, got None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_loss_is_refused_by_name(name):
    given = {
        "sum": K.MeanSquaredError(reduction="sum"),
        "huber sum": K.Huber(reduction="sum"),
        "own": custom_op.losses.get("squared_error"),
        "class": K.Huber,
        "none": None,
    }
    kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        mlhf.keras.compile(ending_in(None), "hessian_free", given.get(name, name))


def test_a_loss_that_is_a_mean_already_is_refused():
    model = ending_in(None)
    mlhf.keras.compile(model, sgd(), lambda y, z: tf.reduce_mean((y - z) ** 2))
    with pytest.raises(ValueError, match=r"a value for each example.*values of the shape \(\)"):
        fit(model, X, ONE_HOT)
