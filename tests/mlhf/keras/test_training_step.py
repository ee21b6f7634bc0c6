"""A step of `fit` is the step of a loop of one's own, to the last bit."""

import keras
import numpy as np
import pytest

import mlhf
from tests.mlhf.keras.small_models import (
    CROSS_ENTROPY,
    ONE_HOT,
    L,
    X,
    Y,
    assert_same,
    fit,
    loop,
    network,
    sgd,
    values,
)

OPTIMIZERS = {
    "hessian_free": lambda: mlhf.HessianFree(curvature_share=0.5),
    "kfac": lambda: mlhf.KFAC(0.1),
    "first_order": lambda: mlhf.FirstOrder(keras.optimizers.Adam(0.01)),
}
SLOW = {
    "muon": mlhf.Muon,
    "schedule_free": mlhf.ScheduleFreeAdamW,
    "martens": mlhf.MartensHessianFree,
    "kfac_lm": lambda: mlhf.KFAC(damping_type="LM_heuristics"),
    "mlhf": lambda: mlhf.MetaHessianFree.from_pretrained("resnet"),
    "soap": mlhf.SOAP,
    "amuse": mlhf.AMUSE,
    "prodigy": mlhf.Prodigy,
    "curvature_muon": lambda: mlhf.CurvatureMuon(horizon=10),
    "meta_muon": lambda: mlhf.MetaMuon(horizon=10),
    "scheduled": lambda: mlhf.HessianFree(learning_rate=mlhf.Schedule(1.0, "linear", 9)),
}


def check_same_numbers(make, **settings):
    model = network()
    settings = {"steps_per_execution": 3, **settings}
    mlhf.keras.compile(model, make(), loss=CROSS_ENTROPY, metrics=["accuracy"], **settings)
    fit(model, epochs=2)
    assert_same(values(model), loop(network(), make(), epochs=2))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_computes_what_a_loop_computes(name):
    check_same_numbers(OPTIMIZERS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_fit_computes_what_a_loop_computes_with_the_other_optimizers(name):
    check_same_numbers(SLOW[name])


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"steps_per_execution": 1}, {"run_eagerly": True}])
def test_one_step_between_callbacks_and_eager_steps_are_the_same_steps(settings):
    check_same_numbers(OPTIMIZERS["first_order"], **settings)


def of_keras(make, y=Y, x=X, loss=CROSS_ENTROPY, settings=None, **arguments):
    """Trains twice, with SGD of Keras and of this package; returns histories and weights."""
    settings, arguments = settings or {}, {"batch_size": len(X) // 2, **arguments}
    found = []
    for own in (False, True):
        model = make()
        if own:
            mlhf.keras.compile(model, sgd(), loss=loss, **settings)
        else:
            model.compile(keras.optimizers.SGD(0.1), loss, **settings)
        found.append((fit(model, x, y, **arguments), model.get_weights()))
    (expected, weights), (history, own_weights) = found
    assert set(history) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(history[name], value, rtol=2e-6, err_msg=name)
    for a, b in zip(own_weights, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def plain():
    keras.utils.set_random_seed(1)
    hidden = L.Dense(5, activation="tanh")
    return keras.Sequential([keras.Input([6]), hidden, L.Dense(3)])


def test_weights_of_examples_and_of_classes_count_as_in_keras():
    metrics = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
    weights = np.linspace(0, 2, len(X)).astype("float32")
    of_keras(plain, sample_weight=weights, settings=metrics)
    of_keras(plain, class_weight={0: 1.0, 1: 3.0, 2: 0.2})
    by_weights = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    of_keras(plain, ONE_HOT, loss=by_weights, sample_weight=weights[:, np.newaxis])


def test_what_a_mask_hides_is_left_out_of_losses_and_metrics():
    random = np.random.default_rng(1)
    ids, labels = random.integers(0, 4, (28, 7)), random.integers(0, 3, (28, 7))

    def masked():
        keras.utils.set_random_seed(2)
        x = keras.Input([7], dtype="int32")
        return keras.Model(x, L.Dense(3)(L.Embedding(4, 3, mask_zero=True)(x)))

    metrics = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
    weights = np.linspace(0, 1, 196).reshape(28, 7)
    of_keras(masked, labels, ids, settings=metrics, sample_weight=weights)


def two_outputs(as_dictionary=False):
    keras.utils.set_random_seed(2)
    a, b = keras.Input([6], name="a"), keras.Input([2], name="b")
    joined = L.Dense(4, activation="tanh")(L.Concatenate()([a, b]))
    classes = L.Dense(3, activation="softmax", name="classes")(joined)
    number = L.Dense(1, name="number")(joined)
    outputs = {"classes": classes, "number": number} if as_dictionary else [classes, number]
    return keras.Model([a, b], outputs)


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_several_inputs_and_outputs_with_losses_and_weights(as_dictionary):
    x, y = [X, X[:, :2]], [Y, X.sum(1, keepdims=True)]
    losses = ["sparse_categorical_crossentropy", "mse"]
    weights, counted = [1.0, 0.3], [np.linspace(0, 2, len(X)), np.linspace(1, 0, len(X))]
    if as_dictionary:
        names = ("classes", "number")
        y, losses, weights, counted = (
            dict(zip(names, part, strict=True)) for part in (y, losses, weights, counted)
        )
    settings = {"loss_weights": weights, "metrics": {"classes": "accuracy"}}

    def make():
        return two_outputs(as_dictionary)

    of_keras(make, y, x, losses, settings, sample_weight=counted)


def test_curvature_of_several_outputs_is_that_of_their_sum():
    model = two_outputs()
    x, y = [X, X[:, :2]], [Y, X.sum(1, keepdims=True)]
    losses, weights = ["sparse_categorical_crossentropy", "mse"], [1.0, 0.3]
    parameters = mlhf.get_parameters(model)
    terms = {}
    for name, loss, target in zip(("classes", "number"), losses, y, strict=True):
        part = keras.Model(model.inputs, model.get_layer(name).output)
        own = mlhf.Objective(part, loss, x, target)
        paths = [variable.path for variable in part.trainable_variables]

        def of_all(parameters, inputs, network=own.network, paths=paths):
            return network({path: parameters[path] for path in paths}, inputs)

        terms[name] = mlhf.Objective(of_all, own.loss, own.inputs, target)
    objective = mlhf.ObjectiveSum(terms, {"number": 0.3})
    optimizer = mlhf.HessianFree(0.5)
    step = optimizer.step(objective, parameters, optimizer.init(parameters))
    mlhf.keras.compile(model, mlhf.HessianFree(0.5), losses, weights)
    history = fit(model, x, y, batch_size=28)
    np.testing.assert_allclose(history["loss"][0], step.metrics["loss"], rtol=1e-6)
    for variable in model.trainable_variables:
        expected = step.parameters[variable.path]
        np.testing.assert_allclose(variable, expected, rtol=1e-4, atol=1e-6, err_msg=variable.path)


def test_kfac_of_several_outputs():
    x, y = [X, X[:, :2]], [Y, X.sum(1, keepdims=True)]
    losses = ["sparse_categorical_crossentropy", "mse"]

    def trained(model, losses, targets, weights, **some):
        mlhf.keras.compile(model, mlhf.KFAC(0.05, damping=0.1), losses, weights)
        history = fit(model, x, targets, batch_size=14, epochs=3, **some)
        return history["loss"], {v.name + str(v.shape): v.numpy() for v in model.trainable_weights}

    # An output that counts for nothing is as one that is not there.
    alone = keras.Model(*(lambda m: (m.inputs, m.outputs[0]))(two_outputs()))
    expected, of_one = trained(alone, losses[0], y[0], None)
    model = two_outputs()
    got, of_both = trained(model, losses, y, [1.0, 0.0])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert len(of_both) == len(of_one) + 2
    for name, value in of_one.items():
        np.testing.assert_allclose(of_both[name], value, rtol=1e-4, atol=1e-6)
    # And one that counts is learned.
    model = two_outputs()
    counted = [np.linspace(0, 2, len(X)), np.linspace(1, 0.5, len(X))]
    both, _ = trained(model, losses, y, [1.0, 0.3], sample_weight=counted)
    assert both[-1] < 0.8 * both[0]


def test_numbers_of_the_optimizer_become_logs():
    model = network()
    mlhf.keras.compile(model, sgd(), CROSS_ENTROPY, logs=["gradient_norm"])
    history = fit(model, epochs=2)
    assert set(history) == {"loss", "gradient_norm"}
    assert all(value > 0 for value in history["gradient_norm"])
    mlhf.keras.compile(model, sgd(), CROSS_ENTROPY, logs=["temperature"])
    with pytest.raises(ValueError, match=r"\['gradient_norm'\], got \['temperature'\]"):
        fit(model)


def test_layers_that_were_frozen_after_compile_are_noticed():
    model = network()
    mlhf.keras.compile(model, sgd(), CROSS_ENTROPY)
    model.get_layer("hidden").trainable = False
    with pytest.raises(ValueError, match="call mlhf.keras.compile again"):
        fit(model)
    mlhf.keras.compile(model, sgd(), CROSS_ENTROPY)
    before = np.asarray(model.get_layer("hidden").kernel)
    fit(model)
    np.testing.assert_array_equal(model.get_layer("hidden").kernel, before)


def test_bfloat16_is_compared_in_single_precision():
    model = network(dropout=0, dtype="mixed_bfloat16")
    mlhf.keras.compile(model, sgd(), CROSS_ENTROPY)
    history = fit(model, epochs=3, batch_size=28)
    assert history["loss"][-1] < history["loss"][0]
