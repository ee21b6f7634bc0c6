"""What `fit` honours besides the loss: honoured, or refused by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf import hypergrad
from tests.mlhf import fit

L, C = keras.layers, keras.constraints
X = np.random.default_rng(0).normal(size=[8, 4]).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 8).astype("int32")
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def constrained():
    keras.utils.set_random_seed(0)
    hidden = L.Dense(5, activation="relu", kernel_constraint="non_neg", name="hidden")
    norm = L.BatchNormalization(gamma_constraint=C.MinMaxNorm(0.2, 0.5), name="norm")
    limited = L.Dense(3, kernel_constraint=C.MaxNorm(0.3), bias_constraint="non_neg", name="last")
    return keras.Sequential([keras.Input([4]), hidden, norm, limited], name="net")


def test_constraints_project_every_step_as_in_fit():
    fit.check(constrained(), X, Y, LOGITS, "softmax_cross_entropy")


def test_constraints_hold_after_steps_of_second_order():
    model, optimizer = constrained(), mlhf.HessianFree(1.0)
    free = keras.models.clone_model(model)
    free.set_weights(model.get_weights())
    for layer in free.layers:
        for variable in layer.trainable_variables:
            variable.constraint = None
    steps = []
    for network in (model, free):
        objective = mlhf.Objective(network, "softmax_cross_entropy", X, Y)
        state = optimizer.init(network)
        steps.append(optimizer.step(objective, mlhf.get_parameters(network), state).parameters)
    found, plain = steps
    for path, value in found.items():
        constraint = {v.path: v.constraint for v in model.trainable_variables}[path]
        expected = plain[path] if constraint is None else constraint(plain[path])
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.min(found["net/hidden/kernel"]) >= 0 > np.min(plain["net/hidden/kernel"])
    norms = np.linalg.norm(found["net/last/kernel"], axis=0)
    assert np.max(norms) < 0.3001


class Stepped(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class Compared(keras.Sequential):
    def compute_loss(self, *arguments, **named):
        return 2 * super().compute_loss(*arguments, **named)


class Writing(L.Dense):
    def call(self, x, training=None):
        if training:
            self.kernel.assign(self.kernel / 2)
        return super().call(x)


class Overwritten(L.Dense):
    def build(self, shape):
        super().build(shape)
        self.bias.overwrite_with_gradient = True


def in_half():
    return keras.Sequential([keras.Input([4]), L.Dense(4, dtype="mixed_float16"), L.Dense(3)])


def quantized():
    model = keras.Sequential([keras.Input([4]), L.Dense(4), L.Dense(3)])
    model.layers[0].quantize("int8")
    return model


def masked():
    ids = keras.Input([4], dtype="int32")
    embedded = L.Embedding(5, 2, mask_zero=True)(ids)
    return keras.Model(ids, L.Dense(3)(embedded))


def two_outputs():
    x = keras.Input([4])
    return keras.Model(x, [L.Dense(3)(x), L.Dense(2)(x)])


def rematerialized():
    with keras.RematScope(mode="full"):
        inner = L.Dense(6, activation="tanh")
    return keras.Sequential([keras.Input([4]), inner, L.Dense(3)])


def sequential(kind, layer=L.Dense):
    return lambda: kind([keras.Input([4]), layer(3)])


REFUSED = {
    "train_step": (sequential(Stepped), "class Stepped overrides train_step"),
    "compute_loss": (sequential(Compared), "class Compared overrides compute_loss"),
    "float16": (in_half, 'in float16.*mixed_bfloat16"'),
    "quantized": (quantized, "not quantized, got .* in int8"),
    "remat": (rematerialized, "without keras.RematScope"),
    "float8": (sequential(keras.Sequential, Overwritten), "overwrites with their gradients"),
    "writing": (sequential(keras.Sequential, Writing), "writes into .*kernel"),
    "two outputs": (two_outputs, "one output tensor, got"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_step_would_leave_out_is_refused_by_name(name):
    make, message = REFUSED[name]
    if name == "remat" and not hasattr(keras, "RematScope"):
        pytest.skip("this Keras has no RematScope")
    model = make()
    with pytest.raises(ValueError, match=message):
        mlhf.Objective(model, "softmax_cross_entropy", X, Y).linearize(mlhf.get_parameters(model))


def test_a_mask_is_honoured_where_it_is_known_and_refused_elsewhere():
    model = masked()
    ids, labels = np.array([[1, 2, 0, 0], [3, 0, 4, 1]], "int32"), np.zeros((2, 4), "int32")
    objective = mlhf.Objective(model, "softmax_cross_entropy", ids, labels)
    parameters = mlhf.get_parameters(model)
    compare = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    values = compare(labels, model(ids)).numpy()
    np.testing.assert_allclose(objective.data_loss(parameters), values[ids != 0].mean(), rtol=1e-6)
    few = np.array([True, False])
    part = mlhf.Objective(model, "softmax_cross_entropy", ids, labels, mask=few)
    np.testing.assert_allclose(part.data_loss(parameters), values[0, :2].mean(), rtol=1e-6)
    inputs, targets, state, _ = objective.tensors
    with pytest.raises(ValueError, match="outputs carry no mask"):
        objective.on(inputs, targets, state).data_loss(parameters)
    with pytest.raises(TypeError, match="a mask of booleans, True for what counts, got int32"):
        mlhf.Objective(model, "softmax_cross_entropy", ids, labels, mask=ids)


def test_a_train_step_may_take_a_step_of_its_own():
    model = sequential(Stepped)()
    objective = mlhf.Objective(model, "softmax_cross_entropy", X, Y, ignore_overrides=True)
    assert np.isfinite(objective.data_loss(mlhf.get_parameters(model)))


def test_hypergradients_and_meta_training_know_no_constraints():
    model = constrained()
    with pytest.raises(ValueError, match="without constraints, got 'net'.*net/hidden/kernel"):
        hypergrad.keras_losses(model, "softmax_cross_entropy", valid_data=(X, Y))
    task = mlhf.Task(
        model, "softmax_cross_entropy", lambda seed: mlhf.get_parameters(model),
        lambda start: iter([(X, Y)] * 9),
    )  # fmt: skip
    for train in (mlhf.meta_train, mlhf.evolve):
        with pytest.raises(ValueError, match="without constraints.*rollouts"):
            train(task, mlhf.MetaHessianFree(0.1), 1)


def lora():
    model = keras.Sequential([keras.Input([4]), L.Dense(6, activation="tanh"), L.Dense(3)])
    model.layers[0].enable_lora(2)
    for variable in model.layers[0].trainable_variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    return model


def test_adapters_of_low_rank_train_as_in_fit():
    keras.utils.set_random_seed(0)
    fit.check(lora(), X, Y, LOGITS, "softmax_cross_entropy")


OPT = keras.optimizers


def excluding(model, **named):
    optimizer = OPT.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(**named)
    return optimizer


class Doubling(OPT.SGD):
    """What `fit` calls, overridden."""

    def apply_gradients(self, grads_and_vars):
        return super().apply_gradients([(2 * gradient, v) for gradient, v in grads_and_vars])


OPTIMIZERS = {
    "apply_gradients": lambda model: Doubling(0.5),
    "clipnorm": lambda model: OPT.SGD(0.5, momentum=0.9, clipnorm=0.1),
    "global_clipnorm": lambda model: OPT.Adam(0.1, global_clipnorm=0.1),
    "averages": lambda model: OPT.SGD(
        0.5, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "accumulated": lambda model: OPT.SGD(0.5, gradient_accumulation_steps=2),
    "loss_scale_factor": lambda model: OPT.SGD(0.5, loss_scale_factor=1024.0),
    "dynamic scale": lambda model: OPT.LossScaleOptimizer(OPT.SGD(0.5)),
    "excluded names": lambda model: excluding(model, var_names=["bias", "first"]),
    "excluded": lambda model: excluding(model, var_list=[model.trainable_variables[0]]),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_of_keras_optimizers_are_honoured(name):
    keras.utils.set_random_seed(0)
    first, last = L.Dense(2, activation="tanh", name="first"), L.Dense(3, name="last")
    model = keras.Sequential([keras.Input([4]), first, last], name="net")
    parameters = mlhf.get_parameters(model)
    optimizer = mlhf.FirstOrder(OPTIMIZERS[name](model))
    state = optimizer.init(model)
    model.compile(OPTIMIZERS[name](model), LOGITS, run_eagerly=True)
    for _ in range(3):
        objective = mlhf.Objective(model, "softmax_cross_entropy", X, Y)
        parameters, state, _, _ = optimizer.step(objective, parameters, state)
        model.train_on_batch(X, Y)
    for path, expected in mlhf.get_parameters(model).items():
        np.testing.assert_allclose(parameters[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)


def test_what_an_optimizer_would_do_at_the_end_of_fit_or_to_named_variables():
    with pytest.raises(ValueError, match="use_ema=True.*ema_overwrite_frequency="):
        mlhf.FirstOrder(OPT.SGD(0.1, use_ema=True))
    model = constrained()
    optimizer = mlhf.FirstOrder(excluding(model, var_list=[model.trainable_variables[0]]))
    with pytest.raises(ValueError, match=r"call init\(model\)"):
        optimizer.init(mlhf.get_parameters(model))
    assert tf.nest.flatten(optimizer.init(model))


@pytest.mark.parametrize("kind", [OPT.SGD, OPT.Adam, OPT.RMSprop])
def test_rows_that_a_batch_looks_up_twice_have_one_gradient(kind):
    """`fit` squares its parts apart, so the reference is Keras' optimizer on dense gradients."""
    ids = np.array([[0], [1], [2], [0], [1], [0], [3], [0]], "int32")
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        layers = [L.Embedding(5, 3, name="rows"), L.Flatten(), L.Dense(3, name="last")]
        models.append(keras.Sequential([keras.Input([1], dtype="int32"), *layers], name="net"))
    model, reference = models
    optimizer, dense = mlhf.FirstOrder(kind(0.1)), kind(0.1)
    parameters, state = mlhf.get_parameters(model), optimizer.init(model)
    for _ in range(3):
        objective = mlhf.Objective(model, "softmax_cross_entropy", ids, Y)
        parameters, state, _, _ = optimizer.step(objective, parameters, state)
        with tf.GradientTape() as tape:
            loss = LOGITS(Y, reference(ids))
        found = tape.gradient(loss, reference.trainable_variables)
        assert any(isinstance(part, tf.IndexedSlices) for part in found)
        dense.apply([tf.convert_to_tensor(part) for part in found], reference.trainable_variables)
    for path, expected in mlhf.get_parameters(reference).items():
        np.testing.assert_allclose(parameters[path], expected, rtol=1e-4, atol=1e-5, err_msg=path)
