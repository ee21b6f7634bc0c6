"""What steps, objectives and files are given by mistake is told in one sentence, at the door."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from tests.contract import batch, objective, quadratic, start

PARAMETERS = start(tf.float32)
INPUTS, TARGETS = batch(tf.float32)
OPTIMIZERS = {
    "HessianFree": mlhf.HessianFree,
    "MartensHessianFree": mlhf.MartensHessianFree,
    "KFAC": mlhf.KFAC,
    "MetaHessianFree": mlhf.MetaHessianFree,
    "FirstOrder": lambda: mlhf.FirstOrder(lambda: keras.optimizers.Adam()),
}
# As many numbers in as many blocks, in other shapes.
TRANSPOSED = {"dense": {"kernel": tf.zeros([2, 4]), "bias": tf.zeros([2])}}


def transposed(parameters, inputs):
    dense = parameters["dense"]
    return inputs @ tf.transpose(dense["kernel"]) + dense["bias"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_refuses_what_it_can_not_take_before_anything_is_traced(name, monkeypatch):
    optimizer = OPTIMIZERS[name]()
    state = optimizer.init(PARAMETERS)
    monkeypatch.setattr(tf, "function", None)
    problem = objective(tf.float32)
    step = mlhf.Step(PARAMETERS, state, None, {"loss": tf.zeros([])})
    others = {
        "KFAC": mlhf.HessianFree().init(PARAMETERS),
        "FirstOrder": mlhf.HessianFree().init(PARAMETERS),
    }.get(name, mlhf.KFAC().init(PARAMETERS))

    def refused(kind, match, *arguments):
        with pytest.raises(kind, match=match):
            optimizer.step(*arguments)

    for wrong in (None, quadratic, "batch", (INPUTS, TARGETS), PARAMETERS):
        refused(TypeError, "^Expected an mlhf.Objective to step on", wrong, PARAMETERS, state)
    for wrong in (None, {}, quadratic, {"dense": None}, [1.0, 2.0], step):
        refused((TypeError, ValueError), "^Expected .*parameters", problem, wrong, state)
    own = type(state).__name__
    for wrong in (None, "state", PARAMETERS, others, tuple(state), optimizer):
        refused(TypeError, f"^Expected the {own} of a {name} as state", problem, PARAMETERS, wrong)
    refused(TypeError, r"got a Step: give its .state", problem, PARAMETERS, step)
    refused(TypeError, r"got a Step: give its .parameters", problem, step, state)
    double = tf.nest.map_structure(lambda leaf: tf.cast(leaf, tf.float64), PARAMETERS)
    refused(ValueError, "^Expected .*float", problem, double, state)
    mixed = {"dense": {**PARAMETERS["dense"], "bias": tf.zeros([2], tf.float64)}}
    refused(ValueError, "^Expected parameters", problem, mixed, state)
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
    refused(TypeError, "give mlhf.get_parameters", problem, model, state)
    if name == "FirstOrder":
        refused(ValueError, "^Expected parameters of the shapes", problem, TRANSPOSED, state)
        return
    another = mlhf.Objective(transposed, "squared_error", INPUTS, TARGETS)
    refused(ValueError, "(state of|of) parameters (of|with) the shapes", another, TRANSPOSED, state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_init_refuses_what_has_no_parameters(name):
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    ragged = {"a": tf.ragged.constant([[1.0], [2.0, 3.0]])}
    sparse = {"a": tf.sparse.from_dense([[1.0]])}
    wrong = [None, quadratic, "text", 3, [1.0], {"a": None}, keras.layers.Dense(2), ragged]
    for thing in [*wrong, unbuilt, keras.Sequential, sparse, mlhf.HessianFree()]:
        with pytest.raises((TypeError, ValueError), match="^Expected "):
            OPTIMIZERS[name]().init(thing)


NETWORKS = {
    "nothing": (lambda p, x: None, "floating tensor, got None: does it end without return"),
    "a pair": (lambda p, x: (quadratic(p, x), 1), "one tensor of outputs.*model_state="),
    "whole numbers": (lambda p, x: tf.cast(quadratic(p, x), tf.int32), "floating outputs, got int"),
    "an array": (lambda p, x: np.zeros((16, 2)), "floating tensor, got array"),
    "one argument": (lambda p: p, r"takes \(parameters, inputs\).*got <lambda>\(p\)"),
    "three arguments": (lambda p, s, x: quadratic(p, x), r"without a model_state"),
}
STATEFUL = {
    "no pair": (lambda p, s, x: quadratic(p, x), r"return \(outputs, new model_state\)"),
    "another state": (
        lambda p, s, x: (quadratic(p, x), {"b": s["m"]}),
        "like the one it was given",
    ),
    "another shape": (lambda p, s, x: (quadratic(p, x), {"m": tf.ones([3])}), "shapes and"),
    "two arguments": (quadratic, "with a model_state is called"),
}


@pytest.mark.parametrize(("network", "match"), [*NETWORKS.values(), *STATEFUL.values()])
def test_a_network_that_returns_something_else_is_told(network, match):
    state = {"m": tf.zeros([1])} if (network, match) in STATEFUL.values() else None
    problem = mlhf.Objective(network, "squared_error", INPUTS, TARGETS, state)
    optimizer = mlhf.HessianFree()
    with pytest.raises((TypeError, ValueError), match=f"^Expected .*{match}"):
        optimizer.step(problem, PARAMETERS, optimizer.init(PARAMETERS))


def test_an_objective_refuses_what_makes_no_batch():
    ragged = tf.ragged.constant([[1.0], [2.0, 3.0]])
    data = tf.data.Dataset.range(3)
    for wrong in (None, ragged, tf.sparse.from_dense([[1.0]]), data, quadratic, object()):
        for what in ("inputs", "targets"):
            arguments = {"inputs": INPUTS, "targets": TARGETS, what: wrong}
            with pytest.raises(TypeError, match=f"^Expected .*{what}"):
                mlhf.Objective(quadratic, "squared_error", **arguments)
    for wrong in (None, 3, keras.layers.Dense(2), keras.Sequential, INPUTS):
        with pytest.raises(TypeError, match="^Expected a (network|function)"):
            mlhf.Objective(wrong, "squared_error", INPUTS, TARGETS)
    for wrong in (1e-4, mlhf.L2, quadratic, "l2"):
        with pytest.raises(TypeError, match="^Expected a regularizer"):
            mlhf.Objective(quadratic, "squared_error", INPUTS, TARGETS, regularizer=wrong)


def test_models_paths_and_weights_are_checked():
    model = keras.Sequential(
        [keras.Input([4]), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    parameters, state = mlhf.get_parameters(model), mlhf.get_model_state(model)
    for wrong in (None, quadratic, {}, keras.layers.Dense(2), keras.Sequential):
        for read in (mlhf.get_parameters, mlhf.get_model_state, mlhf.kinds_of_model):
            with pytest.raises(TypeError, match="^Expected a (built )?Keras model"):
                read(wrong)
        with pytest.raises(TypeError, match="^Expected a Keras model"):
            mlhf.set_parameters(wrong, parameters)
    name = next(iter(parameters))
    flat = {path: tf.reshape(leaf, [-1, 1]) for path, leaf in parameters.items()}
    whole = {path: tf.cast(leaf, tf.int32) for path, leaf in parameters.items()}
    less = {path: leaf for path, leaf in parameters.items() if path != name}
    for wrong in (None, quadratic, [1.0], flat, whole, less, {**parameters, "more": tf.ones([1])}):
        with pytest.raises((TypeError, ValueError), match="^Expected .*parameters.*get_parameters"):
            mlhf.set_parameters(model, wrong)
    np.testing.assert_array_equal(mlhf.get_parameters(model)[name], parameters[name])
    for wrong in (None, 3, [1.0], {n: tf.ones([9]) for n in state}, {"a": tf.ones([4])}):
        with pytest.raises((TypeError, ValueError), match="^Expected .*state"):
            mlhf.set_model_state(model, wrong)
    meta = mlhf.MetaHessianFree()
    meta.init(start(tf.float32))
    for wrong in (None, 3, quadratic):
        with pytest.raises(TypeError, match="^Expected .*path, got"):
            mlhf.MetaHessianFree.from_pretrained(wrong)
        with pytest.raises(TypeError, match="^Expected .*path, got"):
            meta.save(wrong)
    damaged = meta.weights["d"]._replace(dense=meta.weights["d"].dense * np.nan)
    for wrong, match in (
        (None, "for the roles"),
        ({"d": meta.weights["d"]}, r"roles \['d', 'y'\], got \['d'\]"),
        ({**meta.weights, "d": 3}, "Expected LSTMWeights"),
        ({**meta.weights, "d": damaged}, "d/dense: expected finite"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            meta.weights = wrong
    for wrong in (None, "x", tf.ones([3, 3]), mlhf.HessianFree):
        with pytest.raises((TypeError, ValueError), match="^Expected "):
            mlhf.conjugate_gradient(wrong, tf.ones([3]))
    with pytest.raises(TypeError, match="^Expected an mlhf.Task"):
        mlhf.meta_train(None, meta, 1)
    with pytest.raises(TypeError, match="^Expected an mlhf.Task"):
        mlhf.evolve([quadratic], meta, 1)
