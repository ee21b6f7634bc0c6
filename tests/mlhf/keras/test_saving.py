"""A model is saved, loaded and trained on as if nothing had happened, in another process too."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import mlhf
from tests.mlhf.keras.small_models import CROSS_ENTROPY, L, X, Y, assert_same, network, values
from tests.mlhf.keras.small_models import fit as fit_with_two_sizes
from tests.project import ROOT

CONTINUE = """
import sys
import numpy as np
import mlhf
from tests.mlhf.keras.small_models import fit, values

for path in sys.argv[1:]:
    model = mlhf.keras.load_model(path)
    fit(model, batch_size=14)
    np.savez(path + ".npz", *values(model), model.optimizer.learning_rate.numpy())
"""
OPTIMIZERS = {
    "muon": lambda: mlhf.Muon(excluded=["network/logits/kernel"]),
    "adam": lambda: mlhf.FirstOrder(keras.optimizers.Adam(0.02)),
}


def fit(model, **arguments):
    return fit_with_two_sizes(model, **{"batch_size": 14, **arguments})


def trained(make, **settings):
    model = network()
    mlhf.keras.compile(model, make(), CROSS_ENTROPY, **settings)
    fit(model)
    return model


def continued_elsewhere(models, folder):
    """Continues models in another process, and here; returns pairs of values."""
    paths = []
    for name, model in models.items():
        model.optimizer.learning_rate = 0.015
        paths.append(str(folder / f"{name}.keras"))
        model.save(paths[-1])
        fit(model)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", CONTINUE, *paths]
    done = subprocess.run(run, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for path, model in zip(paths, models.values(), strict=True):
        archive = np.load(path + ".npz")
        found = [archive[key] for key in archive.files]
        yield found, [*values(model), model.optimizer.learning_rate.numpy()]


def test_training_goes_on_in_another_process(tmp_path):
    models = {name: trained(make) for name, make in OPTIMIZERS.items()}
    for found, expected in continued_elsewhere(models, tmp_path):
        assert_same(found, expected)


@pytest.mark.slow
def test_the_other_optimizers_go_on_in_another_process(tmp_path):
    others = {
        "hessian_free": lambda: mlhf.HessianFree(0.7, damping=0.5),
        "kfac": lambda: mlhf.KFAC(0.1),
        "amuse": mlhf.AMUSE,
        "mlhf": lambda: mlhf.MetaHessianFree.from_pretrained(
            "resnet", kinds={"network/norm/gamma": "norm_beta"}
        ),
        "soap": mlhf.SOAP,
    }
    models = {name: trained(make) for name, make in others.items()}
    for found, expected in continued_elsewhere(models, tmp_path):
        assert_same(found, expected)


def test_the_order_of_parameters_does_not_hang_on_names_that_keras_gives_anew(tmp_path):
    """Keras numbers layers anew in every process, and sorts dense_10 before dense_9."""

    @keras.saving.register_keras_serializable(package="tests")
    class Numbered(keras.Model):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.parts = [L.Dense(4) for _ in range(3)]
            self.last = L.Dense(3)

        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return self.last(inputs)

    keras.utils.set_random_seed(1)
    for _ in range(7):
        L.Dense(1)
    model = Numbered()
    model(X[:1])
    mlhf.keras.compile(model, "muon", CROSS_ENTROPY)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = mlhf.keras.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.trainable_variables] != loaded.optimizer.names
    assert loaded.optimizer.names == model.optimizer.names
    fit(model), fit(loaded)
    assert_same(values(loaded), values(model))


def test_a_model_that_keras_loads_is_not_trained_as_something_else(tmp_path):
    model = trained(OPTIMIZERS["adam"], regularizer=mlhf.L2(1e-3))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.evaluate(X, Y, 8, 0), model.evaluate(X, Y, 8, 0), rtol=1e-6)
    with pytest.raises(ValueError, match="call mlhf.keras.compile"):
        fit(loaded)
    mlhf.keras.compile(loaded, loaded.optimizer, loaded.loss)
    assert loaded.optimizer.regularizer == mlhf.L2(1e-3)
    fit(loaded), fit(model)
    assert_same(values(loaded), values(model))
    assert not mlhf.keras.load_model(tmp_path / "model.keras", compile=False).compiled


def test_compile_takes_the_step_away_again():
    model, other = network(dropout=0), network(dropout=0)
    mlhf.keras.compile(model, OPTIMIZERS["adam"](), CROSS_ENTROPY)
    fit(model)
    other.set_weights(model.get_weights())
    for one in (model, other):
        one.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
        fit(one)
    assert "make_train_function" not in vars(model)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class Interrupted(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_run_that_was_interrupted_goes_on_from_its_backup(tmp_path):
    whole = network()
    mlhf.keras.compile(whole, "muon", CROSS_ENTROPY)
    fit(whole, epochs=4)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    model = network()
    mlhf.keras.compile(model, "muon", CROSS_ENTROPY)
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=4, callbacks=[backup, Interrupted()])
    again = network()
    mlhf.keras.compile(again, "muon", CROSS_ENTROPY)
    fit(again, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert_same(values(again), values(whole))


def test_callbacks_of_keras_do_their_work(tmp_path):
    model = network()
    mlhf.keras.compile(model, "muon", CROSS_ENTROPY, metrics=["accuracy"])
    saved = str(tmp_path / "{epoch}.keras")
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True, patience=9),
        keras.callbacks.ModelCheckpoint(saved),
        keras.callbacks.TensorBoard(tmp_path / "board"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    history = fit(model, epochs=3, validation_data=(X[:9], Y[:9]), callbacks=callbacks)
    best = int(np.argmin(history["val_loss"]))
    loaded = mlhf.keras.load_model(saved.format(epoch=best + 1))
    assert_same(model.get_weights(), loaded.get_weights())
    assert (tmp_path / "log.csv").read_text().startswith("epoch,accuracy,loss,val_accuracy")
    assert any((tmp_path / "board" / "train").iterdir())


def test_averages_follow_weights_that_others_set():
    """The points of schedule-free steps are not the weights that the model has."""
    model, other = network(dropout=0), network(dropout=0)
    mlhf.keras.compile(model, "schedule_free_adamw", CROSS_ENTROPY)
    fit(model, epochs=2)
    model.set_weights(other.get_weights())
    mlhf.keras.compile(other, "schedule_free_adamw", CROSS_ENTROPY)
    fit(model), fit(other)
    for a, b in zip(model.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_settings_that_no_file_can_hold_are_named(tmp_path):
    model = trained(lambda: mlhf.HessianFree(preconditioner=lambda *_: lambda v: v))
    with pytest.raises(ValueError, match="HessianFree that a file can hold, got preconditioner="):
        model.save(tmp_path / "model.keras")


def test_weights_of_another_optimizers_model_are_loaded_with_a_warning(tmp_path):
    other = network()
    other.compile("adam", CROSS_ENTROPY)
    fit(other)
    other.save_weights(tmp_path / "other.weights.h5")
    model = trained(OPTIMIZERS["muon"])
    with pytest.warns(UserWarning, match="The state of Muon was not loaded"):
        model.load_weights(tmp_path / "other.weights.h5")
    assert_same(model.get_weights(), other.get_weights())
