"""The long-memory problems: what their answers depend on, and a network's products through time."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
import mlhf
from train_val import task_families
from train_val.task_families import long_memory


def test_addition_and_xor_depend_on_two_marked_steps():
    for task in (long_memory.addition(20, 8, 50), long_memory.xor(20, 8, 50)):
        inputs, targets = task.train
        values, marks = inputs[..., 0], inputs[..., 1]
        assert inputs.shape == (50, 20, 2) and (marks.sum(1) == 2).all()
        places = np.argwhere(marks)[:, 1].reshape(50, 2)
        assert (places[:, 0] < 2).all() and (places[:, 1] >= 2).all() and (places < 10).all()
        chosen = np.take_along_axis(values, places, 1)
        if targets.dtype == np.int32:
            np.testing.assert_array_equal(targets, (chosen.sum(1) == 1).astype(int))
            assert 0.2 < targets.mean() < 0.8
        else:
            np.testing.assert_allclose(targets[:, 0], chosen.sum(1))


def test_the_permutation_is_answered_by_its_first_symbol():
    inputs, targets = long_memory.permutation(12, 8, 40).train
    symbols = inputs.argmax(2)
    np.testing.assert_array_equal(symbols[:, 0], targets)
    assert set(targets) == {0, 1} and (symbols[:, 1:] > 1).all() and (inputs.sum(2) == 1).all()


def test_the_initial_recurrence_is_sparse_and_on_the_edge():
    task = long_memory.addition(10, 40, 10)
    kernel = task.initialize(3)["dense_recurrent"]["kernel"].numpy()
    assert ((kernel != 0).sum(0) == 15).all()
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(kernel)).max(), 1.1, rtol=1e-5)
    assert (kernel != task.initialize(4)["dense_recurrent"]["kernel"].numpy()).any()


def test_products_through_the_loop_are_those_of_the_unrolled_network():
    task = long_memory.addition(10, 5, 4)
    parameters = tf.nest.map_structure(lambda v: tf.cast(v, tf.float64), task.initialize(0))
    inputs, targets = (tf.constant(part) for part in task.train)
    vector = tf.nest.map_structure(tf.cos, parameters)

    def unrolled(parameters):
        hidden = tf.zeros([4, 5], tf.float64)
        for t in range(10):
            driven = (
                inputs[:, t] @ parameters["dense_input"]["kernel"]
                + parameters["dense_recurrent"]["bias"]
            )
            hidden = tf.tanh(driven + hidden @ parameters["dense_recurrent"]["kernel"])
        return hidden @ parameters["dense_output"]["kernel"] + parameters["dense_output"]["bias"]

    found = []
    for network in (lambda p: long_memory.recurrent_network(p, inputs), unrolled):
        operator = custom_op.gauss_newton(network, parameters, "squared_error", targets)
        found.append(tf.nest.flatten([operator.gradient(), operator.matvec(vector)]))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_it_is_a_problem_like_others():
    problem = task_families.make("xor:length=10:units=6:examples=50:batch_size=20")
    parameters = problem.task.initialize(0)
    assert 0 <= problem.accuracy(parameters) <= 1 and problem.measured == "test accuracy"
    optimizer = mlhf.HessianFree(1.0, 1.0, 2)
    state = optimizer.init(parameters)
    objective = problem.task.objective(*next(iter(problem.task.batches(0))))
    step = optimizer.step(objective, parameters, state)
    assert objective.data_loss(step.parameters) < step.metrics["loss"]


def test_sequences_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match="at least 10 steps"):
        long_memory.addition(5)
