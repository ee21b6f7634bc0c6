"""Functions and data that change from pass to pass are named, and what does not matter passes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(2)
X = _random.normal(size=(12, 4)).astype("float32")
Y = _random.integers(0, 3, 12)
W = tf.constant(_random.normal(size=(4, 3)), tf.float32)
LOSS = "softmax_cross_entropy"


def network(w, x=X):
    return tf.tanh(x @ w)


def dropout(w, x=X):
    return tf.nn.dropout(x, 0.5) @ w


def of_numpy(w, x=X):
    return (x * np.random.default_rng().uniform(size=x.shape[1:])) @ w


def normalised(w, x):
    return network(w, (x - tf.reduce_mean(x, 0)) / tf.math.reduce_std(x, 0))


STATE = tf.Variable(0.0)


def counting(w, x=X):
    STATE.assign_add(1.0)
    return network(w, x) * STATE


def on_batch(function, **given):
    return custom_op.gauss_newton(function, W, LOSS, Y, **given)


def on_data(data, function=network, make=custom_op.gauss_newton, **given):
    return make(function, W, LOSS, data=data, **given)


def dataset(shuffled=True, **settings):
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    return (data.shuffle(12, **settings) if shuffled else data).batch(4)


class Augmented:
    """Inputs that are others in every pass."""

    def __iter__(self):
        yield X + np.random.default_rng().normal(size=X.shape).astype("float32"), Y


class UsedUp:
    """An iterable that gives its batches once."""

    def __init__(self):
        self.batches = iter([(X, Y)])

    def __iter__(self):
        return self.batches


class Regrouped:
    """Other targets beside the same inputs, from the third pass on."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        yield X, np.roll(Y, 1) if self.passes > 3 else Y


@pytest.mark.parametrize("function", [dropout, counting])
def test_a_function_that_changes_is_refused_on_a_batch(function):
    for make in (custom_op.gauss_newton, custom_op.hessian, custom_op.fisher):
        with pytest.raises(ValueError, match="same whenever it runs .* differ by .*dropout"):
            make(function, W, LOSS, Y)
    operator = on_batch(function, check_deterministic=False)
    # The matrix of one draw is one matrix.
    np.testing.assert_array_equal(operator @ W, operator @ W)
    # A step inside a tf.function is taken on a draw of its own.
    tf.function(lambda: on_batch(function) @ W, autograph=False)()


@pytest.mark.parametrize("function", [dropout, counting, of_numpy])
def test_a_function_that_changes_is_refused_on_a_data_set(function):
    with pytest.raises(ValueError, match="same whenever it runs .* differ by .*dropout"):
        on_data([(X, Y)], function)
    on_data([(X, Y)], function, check_deterministic=False)


def test_a_keras_model_in_training_mode():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    variables = [variable.value for variable in model.trainable_variables]

    def run(values, x=X, training=True):
        state = model.non_trainable_variables
        outputs, moved = model.stateless_call(values, state, x, training=training)
        for variable, value in zip(state, moved, strict=True):
            variable.assign(value)
        return outputs

    with pytest.raises(ValueError, match="dropout in training mode"):
        custom_op.gauss_newton(run, variables, LOSS, Y)
    quiet = custom_op.gauss_newton(lambda v: run(v, training=False), variables, LOSS, Y)
    assert custom_op.eigenpairs(quiet).values == custom_op.eigenpairs(quiet).values


def test_data_that_moves_is_refused_where_it_matters():
    fisher = {"make": custom_op.fisher, "kind": "sampled"}
    with pytest.raises(ValueError, match="differ in .*reshuffle_each_iteration=False"):
        on_data(dataset(), **fisher)
    with pytest.raises(ValueError, match="differ in their order, and each example's draws"):
        on_data(dataset().unbatch().batch(12), **fisher)
    fixed = on_data(dataset(reshuffle_each_iteration=False, seed=1), **fisher)
    np.testing.assert_array_equal(fixed @ W, fixed @ W)
    # A sum over the same examples is the same in any order,
    shuffled, plain = on_data(dataset()), on_data(dataset(False))
    np.testing.assert_allclose(shuffled @ W, plain @ W, atol=1e-6)
    # unless the outputs depend on the batch.
    with pytest.raises(ValueError, match="same loss in every pass .*batch normalisation"):
        on_data(dataset(), normalised)


def test_data_that_changes_says_in_what():
    with pytest.raises(ValueError, match="differ in the inputs;"):
        on_data(Augmented())
    with pytest.raises(ValueError, match="their number .12 examples in 1 batches, then 0 in 0"):
        on_data(UsedUp())
    with pytest.raises(ValueError, match="at least one example, got one with targets of shape .0"):
        on_data([(X, Y), (X[:0], Y[:0])])
    operator = on_data(Regrouped())
    operator @ W
    with pytest.raises(ValueError, match="differ in which targets go with which inputs"):
        custom_op.eigenpairs(operator)
    weighted = [(X, Y, np.ones(12))]
    operator = on_data(weighted)
    operator.gradient()
    weighted[0] = (X, Y, np.full(12, 2.0))
    with pytest.raises(ValueError, match="differ in the weights"):
        custom_op.trace(operator)
    unchecked = on_data(Augmented(), check_deterministic=False)
    assert np.any(unchecked @ W != unchecked @ W)
