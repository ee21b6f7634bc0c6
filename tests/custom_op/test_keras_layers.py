"""Every Keras layer with parameters: derivatives of both orders, and what they leave alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.rules import kernels
from tests.custom_op import keras_layers

# Python 3.10's newest Keras is 3.12, which itself refuses what later ones can do.
OLD_KERAS = tuple(int(part) for part in keras.__version__.split(".")[:2]) < (3, 13)
NEWER = ("DepthwiseConv2D_first", "DepthwiseConv2D_both")
# A second or more each: loops, and convolutions without TensorFlow's kernels.
SLOW = ("RNN", "GRU", "LSTM", "Bidirectional", "Conv2D_grouped", "Conv3D_first")


def _marked(name):
    slow = any(part in name for part in SLOW) and name != "GRU"
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


def test_the_table_has_every_layer_with_parameters():
    found = keras_layers.layers_with_weights()
    assert {"Dense", "LSTM", "GroupNormalization", "TimeDistributed"} <= found
    assert found - set(keras_layers.CASES) - set(keras_layers.WITHOUT_PARAMETERS) == set()


@pytest.mark.parametrize("name", [_marked(name) for name in keras_layers.CASES])
def test_layer(name):
    """Against finite differences, in the parameters and in the inputs, to second order."""
    case = keras_layers.CASES[name]
    if name in NEWER and OLD_KERAS:
        pytest.skip(f"Keras {keras.__version__} refuses this layer itself")
    if name == "Conv2D_first" and not kernels.has_onednn():
        pytest.skip("TensorFlow convolves with the channels first on a CPU by oneDNN and XLA only")
    function, point = keras_layers.build(case)
    tolerance = 1e-6 if case.dtype == "float64" else 2e-2
    custom_op.check_rule(function, point, dtype=tf.as_dtype(case.dtype), tolerance=tolerance)


def test_channels_first_in_float64_says_what_is_missing():
    # The forward pass itself has no kernel on CPU: the words are TensorFlow's.
    x = tf.ones([1, 2, 4, 4], tf.float64)
    kernel = tf.ones([3, 3, 2, 2], tf.float64)

    def convolve(kernel):
        return tf.nn.conv2d(x, kernel, 1, "SAME", data_format="NCHW")

    with pytest.raises(tf.errors.OpError, match="only supports the NHWC tensor format on the CPU"):
        custom_op.linearize(convolve, kernel)


def _normalized(training):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Dense(3, dtype="float64"),
            keras.layers.BatchNormalization(dtype="float64"),
            keras.layers.Dropout(0.4, seed=3, dtype="float64"),
            keras.layers.Dense(2, dtype="float64"),
        ]
    )
    x = tf.constant(np.random.default_rng(2).normal(size=(4, 5)))
    model(x)
    state = [variable.value for variable in model.non_trainable_variables]

    def network(parameters):
        return model.stateless_call(parameters, state, x, training=training)[0]

    parameters = [tf.constant(variable.value) for variable in model.trainable_variables]
    return model, network, parameters


@pytest.mark.parametrize("graph", [False, True])
def test_curvature_leaves_moving_statistics_and_seeds_alone(graph):
    model, network, parameters = _normalized(training=True)
    before = [np.array(variable) for variable in model.non_trainable_variables]

    def products(parameters):
        targets = tf.constant([0, 1, 1, 0])
        arguments = (network, parameters, "softmax_cross_entropy", targets)
        return custom_op.gauss_newton(*arguments) @ parameters, custom_op.hessian(
            *arguments
        ) @ parameters

    run = tf.function(products, autograph=False) if graph else products
    first, again = run(parameters), run(parameters)
    tf.nest.map_structure(np.testing.assert_array_equal, first, again)
    for old, variable in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.skipif(OLD_KERAS, reason=f"Keras {keras.__version__} has no renorm")
def test_batch_renormalization_follows_its_stops():
    """Its factors are stopped by intention, so that the tape is right and differences are not."""
    layer = keras.layers.BatchNormalization(axis=1, renorm=True, dtype="float64")
    x = tf.constant(np.random.default_rng(3).normal(size=(3, 4)))
    layer(x)
    state = [variable.value for variable in layer.non_trainable_variables]

    def function(p):
        return layer.stateless_call(p[:2], state, p[2], training=True)[0]

    point = [variable.value for variable in layer.trainable_variables] + [x]
    with tf.GradientTape() as tape:
        tape.watch(point)
        u = tf.stop_gradient(tf.sin(function(point)))
        value = tf.reduce_sum(u * function(point))
    expected = tape.gradient(value, point)
    for got, right in zip(custom_op.linearize(function, point).vjp(u), expected, strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-12, atol=1e-13)
