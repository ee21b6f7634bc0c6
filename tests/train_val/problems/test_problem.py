import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.models.moving_statistics import PopulationStatistics
from train_val.networks import normalization
from train_val.problems import image_problems


def normalised(kind):
    """x, normalised, doubled and shifted, normalised again; and dropout, which has a state too."""
    layers = [
        keras.Input([3]),
        kind(name="first"),
        keras.layers.Dense(2, name="between"),
        keras.layers.Dropout(0.0, seed=1),
        kind(name="second"),
    ]
    return keras.Sequential(layers)


def values_of(model):
    return [tf.convert_to_tensor(v) for v in model.trainable_variables], [
        tf.convert_to_tensor(v) for v in model.non_trainable_variables
    ]


def test_statistics_are_those_of_the_images_and_nothing_of_what_was():
    kind = normalization.ExactBatchNormalization
    model = normalised(kind)
    x = np.random.default_rng(0).normal(3, 2, [60, 3]).astype("float32")
    values, state = values_of(model)
    moved = [value + 7 if value.dtype.is_floating else value for value in state]
    taken = PopulationStatistics(model)(values, moved, [tf.constant(x)])

    def deviation(v):
        return (v - v.mean(0)) / np.sqrt(v.var(0) + model.layers[0].epsilon)

    between = deviation(x) @ values[2].numpy() + values[3].numpy()
    paths = [variable.path for variable in model.non_trainable_variables]
    found = {
        path.split("/", 1)[-1]: value.numpy() for path, value in zip(paths, taken, strict=True)
    }
    np.testing.assert_allclose(found["first/moving_mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["first/moving_variance"], x.var(0), rtol=1e-4)
    np.testing.assert_allclose(found["second/moving_mean"], between.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["second/moving_variance"], between.var(0), rtol=1e-4)
    # The seed of the dropout is as it was, and so are the layers.
    for before, after in zip(moved, taken, strict=True):
        if not before.dtype.is_floating:
            np.testing.assert_array_equal(before, after)
    assert model.get_layer("first").momentum == kind().momentum


def test_batches_of_all_sizes_count_by_their_images():
    model = keras.Sequential([keras.Input([3]), normalization.ExactBatchNormalization()])
    x = np.random.default_rng(0).normal([1, 2, 3], 2, [90, 3]).astype("float32")
    values, state = values_of(model)
    statistics = PopulationStatistics(model)
    whole = statistics(values, state, [tf.constant(x)])
    parts = statistics(values, state, [tf.constant(x[:50]), tf.constant(x[50:])])
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    with pytest.raises(ValueError, match="got none"):
        statistics(values, state, [])


def test_a_problem_measures_a_network_that_trains_as_it_trains():
    problem = image_problems.make("resnet", "digits", resnet_size=8)
    parameters = {path: 10 * value for path, value in problem.task.initialize(1).items()}
    assert problem.normalised
    state = problem.population_state(parameters)
    assert sorted(state) == sorted(mlhf.get_model_state(problem.model))
    # The loss in training mode on all images as one batch is that with its statistics.
    inputs, labels = (
        tf.concat(part, 0) for part in zip(*problem._test_batches(problem.train), strict=True)
    )
    objective = problem.task.objective(inputs, labels)
    in_training = float(objective.data_loss(parameters))
    assert problem.training_loss(parameters, state) == pytest.approx(in_training, rel=0.02)
    assert problem.training_loss(parameters) != pytest.approx(in_training, rel=0.1)

    plain = image_problems.make("mlp", "digits")
    assert not plain.normalised and plain.population_state(plain.task.initialize(1)) is None
