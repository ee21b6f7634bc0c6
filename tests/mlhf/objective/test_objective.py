"""Objectives: the regularizer, model states, Keras models, and what traces again."""

import gc
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.models import keras_models
from tests.mlhf import reference


def compiled(function, graph):
    return tf.function(function, autograph=False) if graph else function


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_regularizer_is_in_value_gradient_and_curvature_alike(graph):
    setup = reference.Setup.make()
    parameters = reference.structure(setup.w)
    v = np.random.default_rng(0).normal(size=reference.SIZE)

    def everything(parameters, v):
        objective = setup.objective(0)
        linearized = objective.linearize(parameters)
        return (
            linearized.value,
            linearized.data_loss,
            objective.data_loss(parameters),
            linearized.gradient(),
            linearized.curvature_product(v),
            linearized.curvature_along(v),
        )

    value, data_loss, same, gradient, product, along = compiled(everything, graph)(
        parameters, reference.structure(v)
    )
    batch = setup.batches[0]
    g, G = reference.gradient_and_curvature(setup.w, batch)
    np.testing.assert_allclose(value, reference.loss(setup.w, batch), rtol=1e-13)
    np.testing.assert_allclose(data_loss, reference.data_loss(setup.w, batch), rtol=1e-13)
    np.testing.assert_allclose(same, data_loss, rtol=1e-15)
    np.testing.assert_allclose(reference.flat(gradient), g, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(reference.flat(product), G @ v, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(along, v @ G @ v, rtol=1e-11)


def test_a_regularizer_of_ones_own():
    class Quartic:
        def value(self, parameters):
            return tf.reduce_sum(parameters["w"] ** 4)

        def gradient(self, parameters):
            return {"w": 4 * parameters["w"] ** 3}

        def hessian_product(self, parameters, vector):
            return {"w": 12 * parameters["w"] ** 2 * vector["w"]}

    w = {"w": tf.constant([2.0, 3.0], tf.float64)}
    x, y = np.eye(2), np.array([[2.0], [3.0]])
    linearized = mlhf.Objective(
        lambda p, x: tf.linalg.matvec(x, p["w"])[:, None], "squared_error", x, y, None, Quartic()
    ).linearize(w)
    assert float(linearized.value) == 16 + 81
    np.testing.assert_allclose(linearized.gradient()["w"], [32, 108])
    product = linearized.curvature_product({"w": tf.ones(2, tf.float64)})["w"]
    np.testing.assert_allclose(product, [0.5 + 48, 0.5 + 108])


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_model_state_comes_out_and_the_one_that_went_in_stays(graph):
    def network(parameters, model_state, inputs):
        return parameters["w"] * inputs + model_state["sum"], {
            "sum": model_state["sum"] + tf.reduce_sum(inputs)
        }

    state = {"sum": tf.constant(1.0)}
    x = tf.ones([2, 3])

    def run(w, state):
        objective = mlhf.Objective(network, "squared_error", x, 2 * x, state)
        linearized = objective.linearize({"w": w})
        linearized.curvature_product(linearized.gradient())
        return linearized.model_state, objective.model_state

    new, old = compiled(run, graph)(tf.constant(1.0), state)
    assert float(new["sum"]) == 7
    assert float(old["sum"]) == float(state["sum"]) == 1


def batch_norm_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="dense"),
            keras.layers.BatchNormalization(momentum=0.9, name="norm"),
            keras.layers.Dense(2, name="logits"),
        ],
        name="net",
    )


OPTIMIZERS = {
    "meta": lambda: mlhf.MetaHessianFree(0.1),
    "hf": lambda: mlhf.HessianFree(0.1),
    "sgd": lambda: mlhf.FirstOrder(keras.optimizers.SGD(0.1)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_batch_statistics_move_by_one_forward_pass(name):
    model = batch_norm_model()
    optimizer = OPTIMIZERS[name]()
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)).astype("f"), random.integers(0, 2, 8)
    before = mlhf.get_model_state(model)
    state = optimizer.init(model)
    step = optimizer.step(
        mlhf.Objective(model, "softmax_cross_entropy", x, y), mlhf.get_parameters(model), state
    )
    # The model itself is as it was.
    for path, value in mlhf.get_model_state(model).items():
        np.testing.assert_array_equal(value, before[path])
    hidden = model.layers[0](x)
    model(x, training=True)
    for path, value in mlhf.get_model_state(model).items():
        assert np.any(value != before[path])
        np.testing.assert_allclose(step.model_state[path], value, rtol=1e-5)
    (mean,) = [value for path, value in step.model_state.items() if "mean" in path]
    np.testing.assert_allclose(mean, 0.1 * tf.reduce_mean(hidden, 0), rtol=1e-5)
    mlhf.set_model_state(model, before)
    for path, value in mlhf.get_model_state(model).items():
        np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_new_batch_of_the_same_shape_never_traces_again(name):
    traced = []

    def network(parameters, inputs):
        traced.append(inputs.shape)
        return inputs @ parameters["dense"]["kernel"]

    optimizer = OPTIMIZERS[name]()
    parameters = {"dense": {"kernel": tf.ones([3, 2])}}
    state = optimizer.init(parameters)

    def step(batch, regularizer=None, targets=tf.zeros):
        nonlocal parameters, state
        x = tf.random.normal([batch, 3])
        objective = mlhf.Objective(
            network, "squared_error", x, targets([batch, 2]), regularizer=regularizer
        )
        parameters, state, _, _ = optimizer.step(objective, parameters, state)

    step(4)
    first = len(traced)
    assert first >= 1
    for rate in (0.1, 0.2, 0.3):
        # Another learning rate does not, nor do equal regularizers and arrays for tensors.
        if name != "sgd":
            optimizer.learning_rate = rate
        step(4)
        step(4, targets=lambda shape: np.ones(shape, "f"))
    assert len(traced) == first
    step(5)
    second = len(traced)
    assert second > first
    step(4, mlhf.L2(0.1))
    third = len(traced)
    assert third > second
    step(4, mlhf.L2(0.1))
    step(5)
    step(4)
    assert len(traced) == third


def test_a_function_takes_an_objective_and_traces_it_once_a_shape():
    traced = []

    @tf.function
    def loss(objective, parameters):
        traced.append(objective)
        return objective.data_loss(parameters)

    def make(count, network=lambda w, x: w * x):
        x = tf.reshape(tf.range(float(count)), [count, 1])
        return mlhf.Objective(network, "squared_error", x, x + 1)

    network = make(2).network
    for count in (2, 2, 3, 3):
        objective = make(count, network)
        expected = objective.data_loss(tf.constant(0.5))
        np.testing.assert_allclose(loss(objective, tf.constant(0.5)), expected)
    assert len(traced) == 2
    loss(make(3, lambda w, x: w + x), tf.constant(0.5))
    assert len(traced) == 3


def test_a_keras_model_is_one_network():
    model = batch_norm_model()
    x, y = np.ones((2, 3), "f"), np.zeros(2, int)
    first, second = (mlhf.Objective(model, "softmax_cross_entropy", x, y) for _ in range(2))
    assert first.static == second.static
    # With a layer frozen it is another one.
    model.layers[0].trainable = False
    objective = mlhf.Objective(model, "softmax_cross_entropy", x, y)
    assert objective.static != first.static
    parameters = mlhf.get_parameters(model)
    assert len(parameters) == 4
    gradient = objective.linearize(parameters).gradient()
    assert set(gradient) == set(parameters)
    outputs, _ = objective.outputs(parameters)
    np.testing.assert_allclose(outputs, model(x, training=True), rtol=1e-6)


def test_an_objective_keeps_its_keras_model():
    objective = mlhf.Objective(
        batch_norm_model(), "softmax_cross_entropy", np.ones((2, 3), "f"), [0, 1]
    )
    gc.collect()
    parameters = {"net/dense/kernel": tf.ones([3, 4]), "net/dense/bias": tf.ones(4)}
    parameters |= {"net/norm/gamma": tf.ones(4), "net/norm/beta": tf.ones(4)}
    parameters |= {"net/logits/kernel": tf.ones([4, 2]), "net/logits/bias": tf.ones(2)}
    assert objective.outputs(parameters)[0].shape == (2, 2)


def test_parameters_of_a_keras_model():
    model = batch_norm_model()
    parameters = mlhf.get_parameters(model)
    moved = {path: value + 1 for path, value in parameters.items()}
    mlhf.set_parameters(model, moved)
    for path, value in mlhf.get_parameters(model).items():
        np.testing.assert_array_equal(value, moved[path])
    with pytest.raises(ValueError, match="net/dense/bias"):
        mlhf.set_parameters(model, {"net/dense/kernel": moved["net/dense/kernel"]})
    with pytest.raises(ValueError, match="[0-9] variables.* 0"):
        mlhf.set_model_state(model, None)
    with pytest.raises(ValueError, match="built model"):
        mlhf.get_parameters(keras.Sequential([keras.layers.Dense(2)]))
    assert keras_models.is_model(model) and not keras_models.is_model(parameters)


def test_bad_arguments():
    def network(parameters, inputs):
        return inputs * parameters["w"]

    x = tf.ones([2, 3])
    with pytest.raises(ValueError, match="Expected a loss, one of .*got 'hinge'"):
        mlhf.Objective(network, "hinge", x, x)
    with pytest.raises(TypeError, match="network to call, got 7"):
        mlhf.Objective(7, "squared_error", x, x)
    with pytest.raises(ValueError, match="targets"):
        mlhf.Objective(network, "squared_error", x, tf.ones([2, 4])).linearize({"w": tf.ones([])})
    with pytest.raises(ValueError, match="unused"):
        mlhf.Objective(network, "squared_error", x, x).linearize(
            {"w": tf.ones([]), "unused": tf.ones([])}
        )


def test_freezing_a_normalisation_without_weights_makes_another_network():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.BatchNormalization(center=False, scale=False, name="norm"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    x = np.random.default_rng(0).normal(3, 2, (8, 3)).astype("f")
    parameters = mlhf.get_parameters(model)

    def outputs():
        objective = mlhf.Objective(model, "squared_error", x, np.zeros((8, 2), "f"))
        found, state = objective.outputs(parameters)
        return found.numpy(), {name: value.numpy() for name, value in state.items()}

    kernel, bias = (parameters[f"{model.name}/logits/{name}"] for name in ("kernel", "bias"))
    trained, _ = outputs()
    np.testing.assert_allclose(trained.mean(0), bias, atol=1e-4)
    model.get_layer("norm").trainable = False
    frozen, state = outputs()
    np.testing.assert_allclose(frozen, x / np.sqrt(1.001) @ kernel + bias, rtol=1e-4, atol=1e-5)
    assert sorted(value.sum() for value in state.values()) == [0, 3]  # moving mean and variance


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(10.0)),
        lambda: keras.layers.Dense(2, activity_regularizer=keras.regularizers.L2(1.0)),
    ],
    ids=["kernel", "activity"],
)
def test_losses_of_the_model_itself_are_refused(layer):
    model = keras.Sequential([keras.Input((3,)), layer()], name="own")
    objective = mlhf.Objective(model, "squared_error", np.ones((2, 3)), np.zeros((2, 2), "f"))
    with pytest.raises(ValueError, match="Expected a model without losses of its own, got 'own'"):
        objective.linearize(mlhf.get_parameters(model))


def test_a_regularizer_that_looks_like_another_is_another():
    class L1(NamedTuple):
        coefficient: float
        excluded: frozenset = frozenset()

        def value(self, parameters):
            leaves = tf.nest.flatten(parameters)
            return self.coefficient * tf.add_n([tf.reduce_sum(tf.abs(w)) for w in leaves])

        def gradient(self, parameters):
            return tf.nest.map_structure(lambda w: self.coefficient * tf.sign(w), parameters)

        def hessian_product(self, parameters, vector):
            return tf.nest.map_structure(tf.zeros_like, vector)

    class Half(L1):
        def value(self, parameters):
            return 0.5 * super().value(parameters)

    optimizer = mlhf.HessianFree(0.1)
    parameters = {"w": tf.constant([1.0, -2.0])}
    state = optimizer.init(parameters)
    losses = []
    for regularizer in (mlhf.L2(0.5), L1(0.5), Half(0.5)):
        objective = mlhf.Objective(
            lambda p, x: x * p["w"], "squared_error", tf.zeros([1, 2]), tf.zeros([1, 2]),
            regularizer=regularizer,
        )  # fmt: skip
        losses.append(float(optimizer.step(objective, parameters, state).metrics["loss"]))
    assert losses == [0.25 * 5, 1.5, 0.75]


def test_weight_decay_takes_any_set_of_paths():
    for excluded in ({"b"}, ["b"], frozenset({"b"})):
        penalty = mlhf.L2(2.0, excluded)
        assert penalty == mlhf.L2(2.0, frozenset({"b"})) and hash(penalty)
        assert float(penalty.value({"a": tf.ones([3]), "b": tf.ones([2])})) == 3
    with pytest.raises(ValueError, match="excluded= to be a set of paths, got 'b'"):
        mlhf.L2(2.0, "b")
    with pytest.raises(ValueError, match="Expected coefficient to be .*at least 0, got -1"):
        mlhf.L2(-1)


def test_a_batch_of_unknown_size():
    optimizers = {
        "whole": mlhf.HessianFree(0.5, 0.1),
        "share": mlhf.HessianFree(0.5, 0.1, curvature_share=0.5),
        "K-FAC": mlhf.KFAC(0.1, 0.1),
    }
    parameters = {"dense": {"kernel": tf.ones([3, 2]), "bias": tf.zeros([2])}}
    x, y = tf.ones([4, 3]), tf.zeros([4, 2])

    def network(p, x):
        return x @ p["dense"]["kernel"] + p["dense"]["bias"]

    def step(name):
        optimizer = optimizers[name]
        signature = [tf.TensorSpec([None, 3]), tf.TensorSpec([None, 2])]

        @tf.function(input_signature=signature, autograph=False)
        def take(x, y):
            objective = mlhf.Objective(network, "squared_error", x, y)
            return optimizer.step(objective, parameters, optimizer.init(parameters)).parameters

        return take(x, y)

    objective = mlhf.Objective(network, "squared_error", x, y)
    for name in ("whole", "share"):
        optimizer = optimizers[name]
        right = optimizer.step(objective, parameters, optimizer.init(parameters)).parameters
        np.testing.assert_allclose(
            step(name)["dense"]["kernel"], right["dense"]["kernel"], rtol=1e-6, err_msg=name
        )
    with pytest.raises(ValueError, match="Expected a batch of static size, of whose examples K-FA"):
        step("K-FAC")
