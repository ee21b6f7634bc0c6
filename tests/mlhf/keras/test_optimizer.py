"""The Keras optimizer: its learning rate and other numbers act at the next step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.keras import optimizer_table
from mlhf.optimizers.settings import is_variable
from tests.mlhf.keras.small_models import CROSS_ENTROPY, X, Y, network, sgd
from tests.mlhf.keras.small_models import fit as fit_with_two_sizes


def fit(model, *data, **arguments):
    return fit_with_two_sizes(model, *data, **{"batch_size": 7, **arguments})


def compiled(optimizer, **settings):
    model = network()
    mlhf.keras.compile(model, optimizer, CROSS_ENTROPY, **settings)
    return model


def lengths(history):
    return np.array(history["step_norm"])


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_rates_of_callbacks_act_at_the_next_step(steps_per_execution):
    rates = [1.0, 1.0, 1e-6, 1e-6]
    model = compiled("muon", logs=["step_norm"], steps_per_execution=steps_per_execution)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
    history = fit(model, epochs=4, callbacks=[schedule])
    np.testing.assert_allclose(history["learning_rate"], rates, rtol=1e-12)
    found = lengths(history)
    assert np.all(found[:2] > 0.1) and np.all(found[2:] < 1e-5)


class SetAfterBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.optimizer.learning_rate = 1e-6


def test_a_rate_that_is_set_between_batches_acts_in_the_same_epoch():
    model = compiled(mlhf.FirstOrder(keras.optimizers.SGD(1.0)))
    before = model.get_layer("hidden").kernel.numpy()
    first = X[:7], Y[:7]
    other = compiled(mlhf.FirstOrder(keras.optimizers.SGD(1.0)))
    fit(other, *first)
    fit(model, callbacks=[SetAfterBatch()])
    after_one = other.get_layer("hidden").kernel.numpy()
    assert np.max(np.abs(after_one - before)) > 1e-3
    np.testing.assert_allclose(model.get_layer("hidden").kernel, after_one, atol=1e-4)


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_a_plateau_lowers_the_rate(steps_per_execution):
    model = compiled(mlhf.Muon(0.5), logs=["step_norm"], steps_per_execution=steps_per_execution)
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=0, min_delta=10)
    history = fit(model, epochs=3, callbacks=[plateau])
    np.testing.assert_allclose(history["learning_rate"], [0.5, 0.5, 0.05], rtol=1e-6)
    found = lengths(history)
    assert np.all(found[:2] > 0.3) and found[2] < 0.2 * found[1]
    assert is_variable(model.optimizer.learning_rate)


def test_schedules_fall_inside_an_execution():
    schedule = mlhf.Schedule(0.1, "linear", horizon=8)
    model = compiled(mlhf.Muon(schedule), logs=["learning_rate"], steps_per_execution=2)
    history = fit(model, epochs=2)
    np.testing.assert_allclose(history["learning_rate"], [0.1 * 5 / 8, 0.1 / 8], rtol=1e-6)
    np.testing.assert_allclose(model.optimizer.learning_rate, 0.0, atol=1e-9)
    with pytest.raises(ValueError, match="a number as its learning rate to set it to 0.1"):
        model.optimizer.learning_rate = 0.1


def test_numbers_of_the_given_optimizer_hold_for_its_models_and_not_the_other_way_round():
    given = mlhf.Muon(0.1, weight_decay=0.5)
    model, other = compiled(given), compiled(given)
    fit(model), fit(other)
    model.optimizer.learning_rate = 0.2
    assert given.learning_rate == 0.1 and float(other.optimizer.learning_rate.numpy()) == 0.1
    given.learning_rate, given.weight_decay = 1e-7, 0.0
    before = model.get_layer("hidden").kernel.numpy()
    fit(model)
    np.testing.assert_allclose(model.get_layer("hidden").kernel, before, atol=1e-5)
    assert float(other.optimizer.learning_rate.numpy()) == 1e-7
    model.optimizer.weight_decay = 0.25
    assert model.optimizer.optimizer.weight_decay == 0.25 and given.weight_decay == 0


def test_a_rate_set_inside_a_users_function_acts_in_eager_mode_and_in_the_function():
    """A step inside somebody's tf.function reads the rate when the function runs."""
    model = network()
    for optimizer in (mlhf.Muon(0.1), sgd(0.1)):
        start, state = mlhf.get_parameters(model), optimizer.init(model)
        model_state = mlhf.get_model_state(model)

        def step(optimizer=optimizer, start=start, state=state, model_state=model_state):
            objective = mlhf.Objective(model, "softmax_cross_entropy", X, Y, model_state)
            return optimizer.step(objective, start, state).parameters

        for run in (step, tf.function(step, autograph=False)):
            moves = []
            for rate in (0.1, 1e-6):
                optimizer.learning_rate = rate
                change = [after - start[name] for name, after in run().items()]
                moves.append(float(tf.linalg.global_norm(change)))
            np.testing.assert_allclose(moves[1] / moves[0], 1e-5, rtol=0.3)


def test_an_optimizer_without_a_rate_says_so():
    model = network()
    mlhf.keras.compile(model, mlhf.KFAC(), CROSS_ENTROPY)
    assert not hasattr(model.optimizer, "learning_rate")
    with pytest.raises(ValueError, match="got KFAC without one: make it with learning_rate=0.1"):
        model.optimizer.learning_rate = 0.1


def test_a_bad_batch_moves_nothing_and_ends_training_on_request():
    model = compiled("muon")
    x = X.copy()
    x[:8] = np.nan
    before = model.get_layer("hidden").kernel.numpy()
    history = fit(model, x, epochs=3, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert len(history["loss"]) == 1 and np.isnan(history["loss"][0])
    np.testing.assert_array_equal(model.get_layer("hidden").kernel, before)


def test_gradients_alone_are_refused():
    model = compiled(sgd())
    for method in (model.optimizer.apply, model.optimizer.apply_gradients):
        with pytest.raises(ValueError, match="load models with mlhf.keras.load_model"):
            method([(tf.zeros([6, 5]), model.trainable_variables[0])])


def test_arguments_of_other_optimizers_are_refused_by_name():
    model = network()
    with pytest.raises(TypeError, match=r"mlhf.keras.compile, got \['clipnorm'\]"):
        mlhf.keras.compile(model, "muon", CROSS_ENTROPY, clipnorm=1.0)
    mlhf.keras.compile(model, "muon", CROSS_ENTROPY)
    for name in ("clipnorm", "use_ema", "gradient_accumulation_steps"):
        with pytest.raises(TypeError, match=rf"to Muon, got \['{name}'\]"):
            setattr(model.optimizer, name, 2)
    with pytest.raises(ValueError, match="one of .*'hessian_free'.*, got 'hessian_fre'"):
        mlhf.keras.compile(model, "hessian_fre", CROSS_ENTROPY)
    with pytest.raises(TypeError, match="got Keras' Adam, which model.compile takes as it is"):
        mlhf.keras.compile(model, keras.optimizers.Adam(), CROSS_ENTROPY)
    with pytest.raises(TypeError, match="got the class Muon: make one of it"):
        mlhf.keras.compile(model, mlhf.Muon, CROSS_ENTROPY)


def test_every_name_is_an_optimizer():
    model = network()
    names = mlhf.keras.optimizer_names()
    assert {"mlhf", "hessian_free", "kfac", "muon", "curvature_muon", "meta_muon"} <= set(names)
    for name in [*names, "adam", "lm"]:
        steps = 30 if name in ("curvature_muon", "meta_muon") else None
        assert callable(optimizer_table.find(name, model, steps).step)
    assert optimizer_table.find("mlhf", model).kinds[-1] == "norm_gamma"
    assert isinstance(optimizer_table.find("mlhf", model, 30), mlhf.MetaMuon)


def test_the_number_of_steps_goes_to_who_needs_it():
    model = network()
    x, y = np.ones([8, *model.input_shape[1:]], "float32"), np.arange(8) % 3
    with pytest.raises(ValueError, match="the number of steps of the training .* got none"):
        mlhf.keras.compile(model, "curvature_muon", CROSS_ENTROPY)
    for optimizer in ("muon", mlhf.Muon(), "adam"):
        with pytest.raises(ValueError, match="steps= only with .*'curvature_muon'.* got steps=3"):
            mlhf.keras.compile(model, optimizer, CROSS_ENTROPY, steps=3)
    mlhf.keras.compile(model, "curvature_muon", CROSS_ENTROPY, steps=3)
    with pytest.raises(ValueError, match="no steps= with an optimizer of a model, got 3"):
        mlhf.keras.compile(model, model.optimizer, CROSS_ENTROPY, steps=3)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    reached = [weight.numpy() for weight in model.trainable_weights]
    # Three steps are done, and so is the training.
    model.fit(x, y, batch_size=4, epochs=1, verbose=0)
    for before, after in zip(reached, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(after, before)
