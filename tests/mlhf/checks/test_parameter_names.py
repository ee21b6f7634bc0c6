"""What was made before a model was saved fits the model that Keras loads, whose paths differ."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.checks import parameter_names

L = keras.layers
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.arange(8) % 3


def test_a_name_stands_for_the_one_that_it_ends_or_that_ends_it():
    known = ["hidden/kernel", "logits/kernel", "kernel"]
    assert parameter_names.find("network/logits/kernel", known[:2]) == "logits/kernel"
    assert parameter_names.find("kernel", known) == "kernel"
    assert parameter_names.find("kernel", known[:2]) is None
    assert parameter_names.find("its/kernel", known[:2]) is None
    assert parameter_names.renamed(["a/b", "a/c"], ["b", "c"]) == {"a/b": "b", "a/c": "c"}
    assert parameter_names.renamed(["a/b", "a/c"], ["b", "d"]) is None
    assert parameter_names.renamed(["a/b"], ["b", "c"]) is None


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, and the same one after loading."""
    keras.utils.set_random_seed(1)
    hidden, logits = L.Dense(5, name="hidden"), L.Dense(3, name="logits", bias_constraint="non_neg")
    model = keras.Sequential([keras.Input([4]), hidden, logits], name="network")
    path = tmp_path_factory.mktemp("models") / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    paths = [variable.path for variable in model.trainable_variables]
    assert [variable.path for variable in loaded.trainable_variables] != paths
    return model, loaded


def step(model, optimizer, parameters, state, regularizer=None):
    objective = mlhf.Objective(model, "softmax_cross_entropy", X, Y, regularizer=regularizer)
    return optimizer.step(objective, parameters, state)


@pytest.mark.parametrize("own_names", [True, False])
def test_a_run_goes_on_with_the_loaded_model(models, own_names):
    """With the state from before, and parameters by their old or their new names."""
    model, loaded = models
    excluded = ["network/logits/kernel"]
    optimizer, decay = mlhf.Muon(0.1, excluded=excluded), mlhf.L2(1e-2, excluded)
    first = step(model, optimizer, mlhf.get_parameters(model), optimizer.init(model), decay)
    expected = step(model, optimizer, first.parameters, first.state, decay)
    parameters = first.parameters
    if own_names:
        mlhf.set_parameters(loaded, parameters)
        parameters = mlhf.get_parameters(loaded)
        assert set(parameters) != set(first.parameters)
    after = step(loaded, optimizer, parameters, first.state, decay)
    for pair in zip(*(tf.nest.flatten(s.parameters) for s in (after, expected)), strict=True):
        np.testing.assert_array_equal(*pair)
    assert np.all(tf.nest.flatten(after.parameters)[2] >= 0)


def test_kinds_from_before_hold_for_the_loaded_model(models):
    model, loaded = models
    kinds = {"network/logits/kernel": "conv_kernel"}
    optimizer = mlhf.MetaHessianFree(kinds=kinds)
    optimizer.init(loaded)
    assert optimizer.layout(mlhf.get_parameters(loaded)).kinds == [
        "conv_kernel",
        "dense_bias",
        "dense_kernel",
    ]
    names = {path: path.upper() for path in mlhf.get_parameters(model)}
    by_hand = mlhf.resolve_kinds(mlhf.get_parameters(loaded), names)
    assert by_hand == sorted(names.values())


def test_parameters_of_another_network_are_refused_as_before(models):
    _, loaded = models
    with pytest.raises(ValueError, match="Expected parameters for"):
        mlhf.set_parameters(loaded, {"other/kernel": tf.zeros([4, 5])})
