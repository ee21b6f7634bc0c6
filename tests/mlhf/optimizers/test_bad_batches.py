"""A batch that is not finite: no step, and nothing of it stays in any state."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf

_random = np.random.default_rng(8)
KERNEL = _random.normal(size=(4, 3))
INPUTS = _random.normal(size=(12, 4))
TARGETS = np.eye(3)[np.argmax(INPUTS @ _random.normal(size=(4, 3)), 1)]
NOT_A_NUMBER = np.where(np.arange(12)[:, None] == 5, np.nan, 1)
OPTIMIZERS = {
    "meta": lambda: mlhf.MetaHessianFree(
        0.3, cg_iterations=2, input_scale="rms", initial_damping=1
    ),
    "meta without LSTMs": lambda: mlhf.MetaHessianFree(
        0.3, cg_iterations=2, y_use="none", d_use="none", damping=1, damping_type="LM_heuristics"
    ),
    "hf": lambda: mlhf.HessianFree(0.3, cg_iterations=2, damping_type="LM_heuristics"),
    "martens": lambda: mlhf.MartensHessianFree(cg_iterations=5),
    "kfac": lambda: mlhf.KFAC(0.1, damping=0.1),
    "kfac with its own rate": lambda: mlhf.KFAC(damping=0.1, damping_type="LM_heuristics"),
}


def network(parameters, model_state, inputs):
    mean = tf.reduce_mean(inputs, 0)
    return inputs @ parameters["dense/kernel"], {"mean": 0.9 * model_state["mean"] + 0.1 * mean}


def objective(inputs, targets, model_state):
    return mlhf.Objective(network, "softmax_cross_entropy", inputs, targets, model_state)


def finite(structure):
    return all(np.all(np.isfinite(leaf)) for leaf in tf.nest.flatten(structure))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_batch_leaves_no_trace(name):
    optimizer = OPTIMIZERS[name]()
    parameters, model_state = {"dense/kernel": tf.constant(KERNEL)}, {"mean": np.zeros(4)}
    state = optimizer.init(parameters)
    losses = []
    # Between good batches, one with a bad input, one with a bad target, and one that overflows.
    bad = {2: (INPUTS * NOT_A_NUMBER, TARGETS), 5: (INPUTS, TARGETS * NOT_A_NUMBER)}
    bad[7] = (INPUTS * 1e200, TARGETS)
    for number in range(14):
        step = optimizer.step(
            objective(*bad.get(number, (INPUTS, TARGETS)), model_state), parameters, state
        )
        assert finite((step.parameters, step.state))
        if number in bad:
            seen = finite((step.metrics["loss"], step.metrics["gradient_norm"]))
            if number == 7 and (seen or name == "martens"):
                # Fitted already; or the line search takes what lowers a loss that is finite.
                parameters, state = step.parameters, step.state
                continue
            assert not seen
            assert float(step.metrics["step_norm"]) == 0
            np.testing.assert_array_equal(
                step.parameters["dense/kernel"], parameters["dense/kernel"]
            )
            if not np.isfinite(step.metrics["loss"]):
                np.testing.assert_array_equal(step.model_state["mean"], model_state["mean"])
        else:
            losses.append(float(step.metrics["loss"]))
        parameters, state, model_state = step.parameters, step.state, step.model_state
    assert np.all(np.diff(losses[:6]) < 0), losses
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", ["meta without LSTMs", "hf"])
def test_rounding_at_a_minimum_leaves_the_damping_alone(name):
    optimizer = OPTIMIZERS[name]()
    targets = INPUTS @ KERNEL[:, :1] + 0.1 * TARGETS[:, :1]
    parameters, dampings = {"dense/kernel": tf.zeros([4, 1], tf.float64)}, []
    optimizer.learning_rate, optimizer.damping = 1.0, 0.01
    state = optimizer.init(parameters)
    for _ in range(80):
        step = optimizer.step(
            mlhf.Objective(_linear, "squared_error", INPUTS, targets), parameters, state
        )
        parameters, state = step.parameters, step.state
        dampings.append(float(step.state.damping))
    assert set(dampings[60:]) == {dampings[-1]} and dampings[-1] < 0.01, dampings


def _linear(parameters, inputs):
    return inputs @ parameters["dense/kernel"]


def _in_double(parameters, inputs):
    return tf.cast(inputs @ parameters["dense/kernel"], tf.float64)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "first order"])
def test_outputs_may_be_of_another_precision(name):
    made = {**OPTIMIZERS, "first order": lambda: mlhf.FirstOrder(keras.optimizers.Adam())}
    optimizer = made[name]()
    parameters = {"dense/kernel": tf.constant(KERNEL, tf.float32)}
    inputs, state = tf.constant(INPUTS, tf.float32), optimizer.init(parameters)
    decayed = mlhf.L2(0.1)
    double, single = (
        optimizer.step(
            mlhf.Objective(network, "softmax_cross_entropy", inputs, TARGETS, regularizer=decayed),
            parameters,
            state,
        )
        for network in (_in_double, _linear)
    )
    for a, b in zip(tf.nest.flatten(double[:2]), tf.nest.flatten(single[:2]), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_of_less_precision_are_refused(dtype):
    with pytest.raises(ValueError, match=f"float32 or float64, got {dtype}.*product_dtype"):
        mlhf.HessianFree().init({"dense/kernel": tf.zeros([2, 2], dtype)})
