import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from train_val.data import test_batches as whole_batches
from train_val.problems import image_problems


def outputs(problem, parameters, data):
    """The logits of all images by plain NumPy, of the MLP."""
    ((inputs, labels),) = whole_batches(data, len(data))
    values = [parameters[v.path].numpy() for v in problem.model.trainable_variables]
    flat = inputs.numpy().reshape(len(data), -1)
    hidden = 1 / (1 + np.exp(-(flat @ values[0] + values[1])))
    return hidden @ values[2] + values[3], labels.numpy()


def test_accuracy_and_training_loss_are_those_of_all_images():
    problem = image_problems.make("MLP", "digits", weight_decay=0.1)
    parameters = {
        path: 30 * value + 0.1 for path, value in problem.task.initialize(2).items()
    }  # far from the start, so that classes differ
    logits, labels = outputs(problem, parameters, problem.test)
    assert problem.accuracy(parameters) == pytest.approx(np.mean(logits.argmax(1) == labels))

    logits, labels = outputs(problem, parameters, problem.train)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.mean(np.log(chances[np.arange(len(labels)), labels]))
    expected += 0.05 * sum(np.sum(np.square(value)) for value in parameters.values())
    assert problem.training_loss(parameters) == pytest.approx(expected, rel=1e-5)


def test_statistics_of_a_model_count_in_its_accuracy():
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.BatchNormalization(),
         keras.layers.Dense(10)]
    )  # fmt: skip
    plain = image_problems.make("mlp", "digits")
    problem = image_problems.Problem("own", model, plain.train, plain.test, plain.task)
    parameters, state = mlhf.get_parameters(model), mlhf.get_model_state(model)
    moved = {name: value + tf.range(64.0) for name, value in state.items()}
    assert problem.training_loss(parameters) == problem.training_loss(parameters, state)
    assert problem.training_loss(parameters) != problem.training_loss(parameters, moved)


def test_initial_parameters_are_a_function_of_the_seed():
    task = image_problems.make("mlp", "digits").task
    first, again, other = (tf.nest.flatten(task.initialize(seed)) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(first[0] != other[0])


def test_an_objective_of_the_task_includes_weight_decay():
    plain, decayed = (image_problems.make("mlp", "digits", weight_decay=c).task for c in (0.0, 0.5))
    parameters = plain.initialize(0)
    inputs, targets = next(iter(plain.batches(0)))
    difference = (
        decayed.objective(inputs, targets).linearize(parameters).value
        - plain.objective(inputs, targets).linearize(parameters).value
    )
    square = sum(np.sum(np.square(value)) for value in parameters.values())
    assert float(difference) == pytest.approx(0.25 * square, rel=1e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"name": "resnet99"},
            r"Expected problem to be one of \['convnet', 'mlp', 'resnet'\], got",
        ),
        (
            {"data": "cats"},
            "Expected as data set one of cifar10, digits, mnist, imagenet, got 'cats'",
        ),
        ({"batch_size": 751}, "Expected a batch size from 1 to 750"),
        ({"data_format": "rows"}, "Expected data_format to be auto"),
        ({"weight_decay": -1.0}, "Expected weight_decay to be a finite number at least 0"),
        ({"split": "standard"}, "The standard split is CIFAR-10's only"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_problems.make(**{"name": "mlp", "data": "digits", **arguments})


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU can do it")
def test_channels_first_needs_a_gpu():
    with pytest.raises(ValueError, match="needs a GPU.*Give data_format=channels_last"):
        image_problems.make("convnet", "digits", data_format="channels_first")


def test_problems_and_tasks_are_shown_in_a_line():
    problem = image_problems.make("mlp", "digits")
    for shown in (repr(problem), repr(problem.task), str(problem)):
        assert "\n" not in shown and len(shown) < 200 and "mlp on digits" in shown
    assert "750 training and" in repr(problem)
    plain = mlhf.Task(lambda w, x: x, "mean_squared_error", lambda seed: {}, lambda start: [])
    assert repr(plain) == "Task('task', network=<lambda>, loss=mean_squared_error)"
