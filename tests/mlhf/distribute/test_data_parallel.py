"""Steps on divided batches beside one device's: the same parameters, loss and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.distribute import DataParallel
from mlhf.optimizers.protocol import Optimizer
from tests.mlhf.distribute import keras_fit, processes, trainings

COMMAND = ["-m", "tests.mlhf.distribute.trainings"]
FAST = ["hf", "kfac with a rate", "weighted and ignored by kfac"]


def check(path, cases):
    """Compares parameters and loss after 5 steps with those of one device on the same batches."""
    results = np.load(path)
    for case in cases:
        np.testing.assert_allclose(results[case], trainings.trained(case), 1e-9, 1e-9, err_msg=case)


def check_two_processes(folder, cases):
    commands = [[*COMMAND, "worker", str(folder / f"{worker}.npz"), *cases] for worker in (0, 1)]
    processes.run(commands)
    first, second = (np.load(folder / f"{worker}.npz") for worker in (0, 1))
    for case in cases:
        np.testing.assert_array_equal(first[case], second[case])
    check(folder / "0.npz", cases)


def test_two_processes_take_the_steps_of_one(tmp_path):
    check_two_processes(tmp_path, FAST)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_every_optimizer(tmp_path):
    check_two_processes(tmp_path, list(trainings.CASES))


@pytest.mark.slow
def test_two_devices_take_the_steps_of_one_with_every_optimizer(tmp_path):
    path, cases = tmp_path / "mirrored.npz", list(trainings.CASES)
    processes.run([[*COMMAND, "mirrored", str(path), *cases]])
    check(path, cases)


@pytest.fixture(scope="module")
def strategy():
    return tf.distribute.OneDeviceStrategy("CPU:0")


@pytest.mark.parametrize("case", ["kfac with a rate", "a sum"])
def test_a_strategy_of_one_device_takes_its_steps(strategy, case):
    parallel = trainings.trained(case, lambda optimizer: DataParallel(strategy, optimizer), steps=2)
    np.testing.assert_allclose(parallel, trainings.trained(case, steps=2), 1e-12)


def test_it_is_an_optimizer_to_the_loops(strategy):
    parallel = DataParallel(strategy, mlhf.HessianFree())
    assert isinstance(parallel, Optimizer)
    parameters = trainings.start()
    state = parallel.init(parameters)
    saved = parallel.to_saved(state, parameters)
    tf.nest.assert_same_structure(parallel.from_saved(saved, state, parameters), state)
    assert (parallel.process, parallel.processes) == (0, 1)
    assert int(parallel.from_first_process(7)) == 7


def test_a_shared_part_of_the_curvature_is_of_each_replica(strategy):
    optimizer = mlhf.HessianFree(0.5, 0.1, curvature_share=0.5)
    alone, parameters = trainings.objective(0), trainings.start()
    expected = optimizer.step(alone, parameters, optimizer.init(parameters))
    parallel = DataParallel(strategy, mlhf.HessianFree(0.5, 0.1, curvature_share=0.5))
    step = parallel.step(alone, parameters, parallel.init(parameters))
    for a, b in zip(*map(tf.nest.flatten, (step.parameters, expected.parameters)), strict=True):
        np.testing.assert_allclose(a, b, 1e-12)


def test_what_can_not_be_divided_is_refused(strategy):
    with pytest.raises(TypeError, match="Expected a tf.distribute.MirroredStrategy or"):
        DataParallel("mirrored", mlhf.HessianFree())
    with pytest.raises(TypeError, match="LevenbergMarquardt, which needs the Jacobian"):
        DataParallel(strategy, mlhf.LevenbergMarquardt())
    with pytest.raises(ValueError, match="jit_compile=False"):
        DataParallel(strategy, mlhf.HessianFree(jit_compile=True))
    parallel = DataParallel(strategy, mlhf.HessianFree())
    with pytest.raises(TypeError, match="Expected an mlhf.Objective to step on"):
        parallel.step(lambda: 0, {}, ())


def test_an_optimizer_that_asks_for_outputs_is_told_which_does_not(strategy):
    class Curious:
        def init(self, parameters):
            return ()

        def step(self, objective, parameters, state):
            return objective.outputs(parameters)

    with pytest.raises(TypeError, match="got one that asks for the network's outputs"):
        DataParallel(strategy, Curious()).step(trainings.objective(0), trainings.start(), ())


def test_synchronized_normalization_is_refused_by_name(strategy):
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(3),
        keras.layers.BatchNormalization(synchronized=True, name="norm"),
    ]
    model = keras.Sequential(layers)
    objective = mlhf.Objective(
        model, "softmax_cross_entropy", tf.zeros([2, 4]), tf.zeros([2], tf.int32)
    )
    parallel = DataParallel(strategy, mlhf.HessianFree())
    parameters = mlhf.get_parameters(model)
    with pytest.raises(ValueError, match=r"\['norm'\] of synchronized=True"):
        parallel.step(objective, parameters, parallel.init(parameters))


@pytest.mark.slow
def test_two_processes_with_a_keras_model_and_with_other_weights():
    processes.run([["-m", "tests.mlhf.distribute.keras_training"]] * 2)


def test_fit_under_a_strategy_takes_the_steps_of_one_device(tmp_path):
    processes.run([["-m", "tests.mlhf.distribute.keras_fit", str(tmp_path), "kfac"]])


@pytest.mark.slow
def test_fit_under_a_strategy_takes_the_steps_of_one_device_with_every_optimizer(tmp_path):
    names = list(keras_fit.OPTIMIZERS)
    processes.run([["-m", "tests.mlhf.distribute.keras_fit", str(tmp_path), *names]])
