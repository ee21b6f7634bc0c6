"""MetaMuon: where its weights come from, their file, and Keras' `fit`."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer import step_controller
from replay import DamagedFileError, LaterVersionError, read_structure, write_structure
from tests.project import ROOT


def other_weights(seed=3):
    random = np.random.default_rng(seed)
    return step_controller.ControllerWeights(
        *[
            (value + 0.05 * random.normal(size=value.shape)).astype("f")
            for value in step_controller.neutral_weights()
        ]
    )


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_weights_come_from_the_package_from_a_file_or_as_arrays(tmp_path):
    shipped, mine = mlhf.MetaMuon(10), mlhf.MetaMuon(10, weights=other_weights())
    assert same(shipped.weights, mlhf.MetaHessianFree.from_pretrained(steps=7).weights)
    path = mine.save(tmp_path / "mine")
    assert path.name == "mine.npz"
    for place in (path, str(path), tmp_path / "mine"):
        assert same(mlhf.MetaMuon(10, weights=place).weights, mine.weights)
    assert same(mlhf.MetaMuon(5, weights="neutral").weights, step_controller.neutral_weights())
    loaded = mlhf.MetaHessianFree.from_pretrained(path, steps=30, curvature_share=0.5)
    assert isinstance(loaded, mlhf.MetaMuon) and same(loaded.weights, mine.weights)
    assert loaded.horizon == 30 and loaded.curvature_share == 0.5
    shipped.weights = mine.weights
    assert same(shipped.weights, mine.weights)


def test_from_pretrained_asks_for_steps_or_a_name():
    with pytest.raises(
        TypeError, match=r"^Expected .*path, got None.*from_pretrained\(steps=500\)"
    ):
        mlhf.MetaHessianFree.from_pretrained()
    with pytest.raises(ValueError, match=r"settings of MetaMuon .*\['learning_rate'\]"):
        mlhf.MetaHessianFree.from_pretrained(steps=10, learning_rate=1.0)
    with pytest.raises(ValueError, match="horizon"):
        mlhf.MetaHessianFree.from_pretrained(steps=0)


def with_about(path, new, **about):
    content = read_structure(path)
    old = json.loads(np.asarray(content["about"], np.uint8).tobytes())
    text = json.dumps({**old, **about}).encode()
    write_structure(new, {**content, "about": np.frombuffer(text, np.uint8)})
    return new


def test_files_that_are_not_a_controllers_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="MetaMuon.save"):
        mlhf.MetaMuon(10, weights=tmp_path / "missing")
    path = mlhf.MetaMuon(10).save(tmp_path / "mine")
    with pytest.raises(LaterVersionError, match="version 99"):
        mlhf.MetaMuon(10, weights=with_about(path, tmp_path / "later.npz", version=99))
    lstm = mlhf.MetaHessianFree(kinds={"a/kernel": "dense_kernel"})
    lstm.init({"a/kernel": tf.zeros([2, 2])})
    with pytest.raises(DamagedFileError, match="not the file of a controller"):
        mlhf.MetaMuon(10, weights=lstm.save(tmp_path / "lstm"))
    content = read_structure(path)
    content["weights"]["momentum"] = np.full(step_controller.COMMON, np.nan, "f")
    write_structure(tmp_path / "nan.npz", content)
    with pytest.raises(DamagedFileError, match="finite .* momentum"):
        mlhf.MetaMuon(10, weights=tmp_path / "nan.npz")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (step_controller.neutral_weights()[:-1], "Expected 7 arrays of weights, got 6"),
        (
            step_controller.neutral_weights()._replace(outputs=np.zeros([3, 2])),
            r"outputs of shape \(8, 2\) .* got \(3, 2\)",
        ),
        (3.0, "Expected the weights of a controller, or their file, as a string or a path"),
    ],
)
def test_other_weights_are_refused(weights, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mlhf.MetaMuon(10, weights=weights)


def test_a_compiled_model_is_saved_with_its_controller(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 5)).astype("f")
    y = (x[:, 0] > 0).astype("int32")
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input([5]), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    mlhf.keras.compile(model, mlhf.MetaMuon(12, weights=other_weights()), loss)
    # The last batch of an epoch is smaller, and the controller sees its size.
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    again = mlhf.keras.load_model(tmp_path / "model.keras")
    for one in (model, again):
        one.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = mlhf.MetaMuon(12, weights="neutral")
    assert not same(other.weights, again.optimizer.optimizer.weights)


def test_it_has_no_rate_to_tune():
    from train_val.comparison.specifications import parse

    entrant = parse("metamuon")
    assert not entrant.axes and re.fullmatch("[0-9a-f]{16}", entrant.identity["weights"])
    assert entrant.optimizer({}, 25).horizon == 25
    assert parse("metamuon:weights=neutral").identity["weights"] != entrant.identity["weights"]


def test_a_file_of_the_first_version_says_what_it_said(tmp_path):
    path = ROOT / "docs/results/step_length/learned/controller.npz"
    old = read_structure(path)["weights"]
    assert old["lengths"].shape == (5, 10)
    new = mlhf.MetaMuon(10, weights=path).weights
    for name, seen in (("lengths", new.lengths), ("kernel_1", new.kernel_1[5:19].T)):
        rows = old[name] if name == "lengths" else old[name][5:15].T
        np.testing.assert_array_equal(seen[:, :8], rows[:, :8])
        np.testing.assert_array_equal(seen[:, 10:12], rows[:, 8:])
        assert not np.any(seen[:, [8, 9, 12, 13]])
    np.testing.assert_array_equal(new.kernel_1[19:], old["kernel_1"][15:])
    np.testing.assert_array_equal(new.momentum, [*old["momentum"], 0, 0])
