"""Two devices in one process: asserts that `fit` takes the steps of one device.

    python -m tests.mlhf.distribute.keras_fit FOLDER OPTIMIZER ...

More than one optimizer stands for more of everything.
"""

import contextlib

import keras
import numpy as np
import pytest

import mlhf
import mlhf.keras
from tests.mlhf.distribute import trainings

# The last batch has fewer examples than there are devices.
EXAMPLES, BATCH = 65, 32
X = np.random.default_rng(0).normal(size=(EXAMPLES, 6)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 0.5)
WEIGHTS = np.linspace(0.5, 2, EXAMPLES).astype(np.float32)
OPTIMIZERS = {
    "hessian free": lambda: mlhf.HessianFree(0.5),
    "kfac": lambda: mlhf.KFAC(0.1, factor_share=1.0),
    "muon": lambda: mlhf.Muon(0.02),
    "meta": lambda: mlhf.MetaHessianFree(0.5, damping=0.1, longest_step=0.25),
    "schedule free": lambda: mlhf.ScheduleFreeAdamW(0.01),
}


def make_model(normalized=False):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    between = [layers.BatchNormalization()] if normalized else []
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh"), *between, layers.Dense(3)])


def compiled(strategy, optimizer, normalized=False):
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make_model(normalized)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        mlhf.keras.compile(model, optimizer, loss=loss, weighted_metrics=["accuracy"])
    return model


def fit(model, weights=WEIGHTS, **settings):
    given = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0, **settings}
    return model.fit(X, LABELS, sample_weight=weights, **given).history


def check_the_same_numbers(strategy, name):
    model, alone = compiled(strategy, OPTIMIZERS[name]()), compiled(None, OPTIMIZERS[name]())
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5**epoch)
    history, expected = (fit(m, callbacks=[rate]) for m in (model, alone))
    for a, b in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5, err_msg=name)
    assert history.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(history[key], expected[key], 1e-5, err_msg=f"{name}: {key}")
    # It has moved, and the metrics are of the whole batch.
    assert history["loss"][1] < history["loss"][0]


def check_moving_statistics(strategy):
    """They are those of the shares, and the network that `evaluate` sees has them."""
    model = compiled(strategy, mlhf.HessianFree(1e-9), normalized=True)
    rows = slice(BATCH)
    model.fit(X[rows], LABELS[rows], batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
    hidden = make_model(True).layers[0](X[rows]).numpy()
    (normalization,) = (x for x in model.layers if "normalization" in x.name)
    np.testing.assert_allclose(normalization.moving_mean, 0.01 * hidden.mean(0), 1e-4, 1e-6)
    halves = (hidden[:16].var(0) + hidden[16:].var(0)) / 2
    np.testing.assert_allclose(normalization.moving_variance, 0.99 + 0.01 * halves, 1e-5)


def check_saving(strategy, folder):
    """A model saved under the strategy goes on with it, and without."""
    model = compiled(strategy, OPTIMIZERS["kfac"]())
    fit(model)
    model.save(f"{folder}/model.keras")
    alone = mlhf.keras.load_model(f"{folder}/model.keras")
    with strategy.scope():
        loaded = mlhf.keras.load_model(f"{folder}/model.keras")
    for one in (model, alone, loaded):
        fit(one, epochs=1)
    for a, b, c in zip(*(one.get_weights() for one in (model, alone, loaded)), strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5)
        np.testing.assert_array_equal(a, c)


def check_refusals(strategy):
    for optimizer, message in (
        ("adam", "Expected an optimizer of this package for 2 replicas"),
        (mlhf.HessianFree(jit_compile=True), "Expected an optimizer with jit_compile=False"),
    ):
        with pytest.raises(ValueError, match=message):
            compiled(strategy, optimizer)
    with pytest.raises(TypeError, match="needs the Jacobian of the whole batch"):
        compiled(strategy, mlhf.LevenbergMarquardt())


def main(folder, *names):
    strategy = trainings.mirrored()
    for name in names:
        check_the_same_numbers(strategy, name)
    check_refusals(strategy)
    if len(names) > 1:
        check_moving_statistics(strategy)
        check_saving(strategy, folder)


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
