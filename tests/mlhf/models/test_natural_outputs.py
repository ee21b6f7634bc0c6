"""A softmax at a model's end under a loss from logits, and Keras' names for losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
import mlhf
from mlhf import hypergrad
from tests.mlhf import fit

L = keras.layers
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(6, 4))
CLASSES = RANDOM.integers(0, 3, 6)
ONE_HOT = np.eye(3)[CLASSES]
YES_NO = RANDOM.integers(0, 2, (6, 3)).astype("float64")


def network(end, dtype="float64"):
    """A model with given layers at its end; weights are always the same."""
    keras.utils.set_random_seed(0)
    body = [L.Dense(5, activation="tanh", name="hidden", dtype=dtype)]
    model = keras.Sequential([keras.Input([4]), *body, *end(dtype)], name="net")
    for number, variable in enumerate(model.trainable_variables):
        # Confident ones, as trained classifiers are.
        values = np.random.default_rng(number).normal(size=variable.shape) * 3
        variable.assign(values)
    return model


def logits(dtype):
    return [L.Dense(3, name="last", dtype=dtype)]


def activated(name):
    return lambda dtype: [L.Dense(3, activation=name, name="last", dtype=dtype)]


def with_layer(make):
    return lambda dtype: [L.Dense(3, name="last", dtype=dtype), make(dtype)]


ENDS = {
    "activation": activated("softmax"),
    "layer": with_layer(lambda dtype: L.Softmax(dtype=dtype)),
    "tensorflow": with_layer(lambda dtype: L.Lambda(tf.nn.softmax, dtype=dtype)),
    "sigmoid": activated("sigmoid"),
}


def quantities(model, loss, targets, graph):
    """Value, data loss, gradient and a product, of an objective."""
    parameters = mlhf.get_parameters(model)
    v = tf.nest.map_structure(lambda w: tf.cos(tf.cast(w, w.dtype)), parameters)

    def compute():
        objective = mlhf.Objective(model, loss, X, targets)
        linearized = objective.linearize(parameters)
        product = linearized.curvature_product(v)
        value = objective.data_loss(parameters)
        return linearized.value, value, linearized.gradient(), product

    found = tf.function(compute, autograph=False)() if graph else compute()
    return [leaf.numpy() for leaf in tf.nest.flatten(found)]


@pytest.mark.parametrize(("end", "graph"), [*((end, True) for end in ENDS), ("tensorflow", False)])
def test_an_activation_that_the_loss_takes_itself_is_taken_off(end, graph):
    sigmoid = end == "sigmoid"
    loss = "sigmoid_cross_entropy" if sigmoid else "softmax_cross_entropy"
    targets = YES_NO if sigmoid else CLASSES
    expected = quantities(network(logits), loss, targets, True)
    found = quantities(network(ENDS[end]), loss, targets, graph)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_kfac_finds_the_layers_before_a_softmax():
    x, y = X.astype("float32"), CLASSES.astype("int32")
    optimizer, losses = mlhf.KFAC(0.3, damping=0.1), {}
    for name, end in (("logits", logits), ("softmax", activated("softmax"))):
        model = network(end, "float32")
        parameters, state = mlhf.get_parameters(model), optimizer.init(model)
        objective = mlhf.Objective(model, "softmax_cross_entropy", x, y)
        step = optimizer.step(objective, parameters, state)
        losses[name] = float(step.metrics["loss"]), step.parameters["net/last/kernel"].numpy()
    np.testing.assert_allclose(losses["softmax"][0], losses["logits"][0], rtol=1e-6)
    np.testing.assert_allclose(losses["softmax"][1], losses["logits"][1], rtol=1e-4)


K = keras.losses
MEANT = {
    "sparse name": ("sparse_categorical_crossentropy", "softmax", CLASSES),
    "name": ("categorical_crossentropy", "softmax", ONE_HOT),
    "binary name": ("binary_crossentropy", "sigmoid", YES_NO),
    "mse": ("mse", "tanh", YES_NO),
    "function": (K.sparse_categorical_crossentropy, "softmax", CLASSES),
    "object": (K.SparseCategoricalCrossentropy(dtype="float64"), "softmax", CLASSES),
    "class": (K.MeanSquaredError, "softmax", ONE_HOT),
    "logits": (K.SparseCategoricalCrossentropy(True, dtype="float64"), None, CLASSES),
    "both": (K.SparseCategoricalCrossentropy(True, dtype="float64"), "softmax", CLASSES),
    "smoothed": (
        K.CategoricalCrossentropy(label_smoothing=0.2, dtype="float64"), "softmax", ONE_HOT,
    ),
    "smoothed logits": (
        K.BinaryCrossentropy(True, label_smoothing=0.3, dtype="float64"), None, YES_NO,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")
@pytest.mark.parametrize("name", MEANT)
def test_losses_of_keras_are_what_they_mean(name):
    loss, activation, targets = MEANT[name]
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        fit.check(network(activated(activation)), X, targets, loss, loss, rtol=1e-6, atol=1e-8)
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_floatx("float32")


def test_a_smoothed_loss_is_one_loss_and_has_its_own_curvature():
    given = K.CategoricalCrossentropy(True, label_smoothing=0.2)
    loss = custom_op.losses.get(given)
    assert loss == custom_op.losses.get(K.CategoricalCrossentropy(True, label_smoothing=0.2))
    z = tf.constant(RANDOM.normal(size=(6, 3)))
    expected = 0.8 * ONE_HOT + 0.2 / 3
    plain = custom_op.losses.get("softmax_cross_entropy")
    expected = tf.constant(expected)
    np.testing.assert_allclose(loss.value(z, tf.constant(ONE_HOT)), plain.value(z, expected))
    for targets in (tf.constant(CLASSES), tf.constant(ONE_HOT)):
        np.testing.assert_allclose(loss.gradient(z, targets), plain.gradient(z, expected))
        np.testing.assert_allclose(
            loss.hessian_product(z, targets, z), plain.hessian_product(z, expected, z)
        )
    seed = tf.constant([1, 2])
    np.testing.assert_allclose(
        loss.sampled_gradients(z, tf.constant(ONE_HOT), seed),
        plain.sampled_gradients(z, tf.constant(CLASSES), seed),
    )


def average(dtype):
    class Average(L.Layer):
        def call(self, z):
            return (tf.nn.softmax(z) + tf.nn.softmax(-z)) / 2

    return Average(dtype=dtype)


REFUSED = {
    "average": (with_layer(average), "softmax_cross_entropy", "probabilities .of a softmax"),
    "wrong activation": (activated("sigmoid"), "softmax_cross_entropy", "of a sigmoid"),
    "other loss": (activated("softmax"), "sigmoid_cross_entropy", "of a softmax"),
    "twice": (
        with_layer(lambda dtype: L.Lambda(lambda z: tf.nn.softmax(tf.nn.softmax(z)))),
        "softmax_cross_entropy", "probabilities",
    ),
    "no softmax": (logits, "sparse_categorical_crossentropy", "from_logits=True"),
    "hard sigmoid": (activated("hard_sigmoid"), "binary_crossentropy", "numbers from 0 to 1"),
    "other side": (
        with_layer(lambda dtype: L.Lambda(lambda z: 1 - tf.sigmoid(z), dtype=dtype)),
        "sigmoid_cross_entropy", "numbers from 0 to 1",
    ),
    "shifted": (
        with_layer(lambda dtype: L.Lambda(lambda z: tf.nn.softmax(z) + 1e-7, dtype=dtype)),
        "softmax_cross_entropy", "numbers from 0 to 1",
    ),
    "linear": (logits, "binary_crossentropy", "end in a sigmoid"),
    "rates": (activated("softplus"), "poisson", r"rates .Softplus"),
    "more rates": (
        with_layer(lambda dtype: L.Lambda(lambda z: tf.nn.softplus(z) + 1e-6, dtype=dtype)),
        "poisson", "rates .of at least 0",
    ),
    "sum": (logits, K.MeanSquaredError(reduction="sum"), "got 'sum': a step is taken on the mean"),
    "axis": (logits, K.CategoricalCrossentropy(True, axis=1), "axis=1"),
    "huber": (logits, K.Huber(), "whose Hessian is known here.*keras.losses.Huber"),
    "keras' poisson": (activated("exponential"), K.Poisson(), 'give "poisson"'),
    "hinge": (logits, "hinge", "Expected a loss, one of .*got 'hinge'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_as_it_is_meant_is_refused(name):
    end, loss, message = REFUSED[name]
    model = network(end)
    targets = CLASSES if "categorical" in str(loss) or loss == "softmax_cross_entropy" else YES_NO
    with pytest.raises(ValueError, match=message):
        objective = mlhf.Objective(model, loss, X, targets)
        objective.linearize(mlhf.get_parameters(model))


def test_functions_and_operators_say_what_to_give():
    w = {"w": tf.constant(RANDOM.normal(size=(4, 3)))}

    def function(p, x):
        return tf.nn.softmax(x @ p["w"])

    objective = mlhf.Objective(function, "softmax_cross_entropy", X, CLASSES)
    with pytest.raises(ValueError, match="a network that returns outputs from before their softm"):
        objective.linearize(w)
    for operator in (custom_op.gauss_newton, custom_op.hessian, custom_op.fisher):
        with pytest.raises(ValueError, match="a network that returns outputs from before"):
            operator(lambda p: function(p, X), w, "softmax_cross_entropy", CLASSES)
    # Other losses compare probabilities as well.
    assert mlhf.Objective(function, "mean_squared_error", X, ONE_HOT).linearize(w)
    for loss in ("sparse_categorical_crossentropy", K.CategoricalCrossentropy()):
        with pytest.raises(ValueError, match="give 'softmax_cross_entropy' and outputs from befo"):
            custom_op.losses.get(loss)
    assert custom_op.losses.get("mse") is custom_op.losses.get("mean_squared_error")
    assert custom_op.losses.get(K.BinaryCrossentropy(from_logits=True)) is custom_op.losses.get(
        "sigmoid_cross_entropy"
    )


def test_exponential_outputs_of_a_poisson_regression():
    counts = RANDOM.poisson(2.0, (6, 3)).astype("float64")
    expected = quantities(network(logits), "poisson", counts, True)
    found = quantities(network(activated("exponential")), "poisson", counts, True)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_losses_for_hypergradients():
    model = network(activated("softmax"), "float32")
    x, y = X.astype("float32"), CLASSES
    expected = K.SparseCategoricalCrossentropy()(y, model(x))
    train_loss, valid_loss = hypergrad.keras_losses(
        model, "sparse_categorical_crossentropy", valid_data=(x, y)
    )
    weights = mlhf.get_parameters(model)
    seed, step = tf.constant(0), tf.constant(0)
    np.testing.assert_allclose(train_loss(weights, {}, step, (x, y), seed), expected, rtol=1e-5)
    np.testing.assert_allclose(valid_loss(weights, {}), expected, rtol=1e-5)


IDS = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0], [3, 3, 3, 3, 1]], "int32")


def masked():
    keras.utils.set_random_seed(0)
    ids = keras.Input([5], dtype="int32")
    return keras.Model(ids, L.Dense(1)(L.Embedding(4, 3, mask_zero=True)(ids)))


def column():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input([4]), L.Dense(1)])


def squares(targets, outputs):
    return tf.square(targets - outputs)


@pytest.mark.parametrize("loss", [squares, K.mean_absolute_error, "mae", K.Huber, "hinge"])
@pytest.mark.parametrize("make", [masked, column])
def test_functions_for_hypergradients_are_compared_as_compile_does(make, loss):
    """Not broadcast to [N, N], and without the terms that a mask hides."""
    model = make()
    x = IDS if make is masked else X.astype("float32")
    y = RANDOM.normal(size=(3, 5, 1) if make is masked else 6).astype("float32")
    expected, weights, _ = fit.as_fit(model, loss, x, y, rate=1.0)
    train_loss, valid_loss = hypergrad.keras_losses(model, loss, valid_data=(x, y))
    before = mlhf.get_parameters(model)
    with tf.GradientTape() as tape:
        tape.watch(before)
        value = train_loss(before, {}, tf.constant(0), (x, y), tf.constant(0))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(valid_loss(before, {}), expected, rtol=1e-5)
    for path, part in tape.gradient(value, before).items():
        moved = before[path] - tf.convert_to_tensor(part)
        np.testing.assert_allclose(moved, weights[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_losses_for_hypergradients_are_refused_where_they_are_given():
    for loss in (None, {"net": "mse"}, keras.metrics.MeanSquaredError(), float):
        with pytest.raises(TypeError, match="Expected a loss: a name, an object of custom_op.lo"):
            hypergrad.keras_losses(column(), loss, valid_data=(X, X[:, :1]))
    with pytest.raises(ValueError, match="got 'nonsense'"):
        hypergrad.keras_losses(column(), "nonsense", valid_data=(X, X[:, :1]))
    given = [
        (masked(), lambda y, z: tf.reduce_mean(squares(y, z)), (IDS, IDS[..., None] * 1.0)),
        (network(logits, "float32"), "softmax_cross_entropy", (X, CLASSES + 1)),
    ]
    messages = ["a term for each place of the outputs' mask", "^SoftmaxCross.*labels from 0 to 2"]
    for (model, loss, data), message in zip(given, messages, strict=True):
        _, valid_loss = hypergrad.keras_losses(model, loss, valid_data=data)
        with pytest.raises(ValueError, match=message):
            valid_loss(mlhf.get_parameters(model), {})
