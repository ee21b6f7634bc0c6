"""Data hyper-cleaning and the weighted error in small, on clouds of points."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from tests.train_val.experiments.clouds import examples
from train_val.experiments import hyper_cleaning, mnist_slices, weighted_error


def test_labels_are_corrupted():
    labels = np.random.default_rng(0).integers(0, 10, 100)
    got, wrong = hyper_cleaning.corrupt(labels, 0.3, 1)
    assert wrong.sum() == 30 and got.min() >= 0 and got.max() <= 9
    np.testing.assert_array_equal(got != labels, wrong)


def test_f1_by_hand():
    wrong = np.array([True, True, True, False, False])
    # Two of three found, and one called wrong that is right: precision and recall are 2/3.
    assert hyper_cleaning.f1(np.array([0, 1e-4, 0.5, 0, 1]), wrong) == pytest.approx(2 / 3)
    assert hyper_cleaning.f1(np.ones(5), wrong) == 0


def test_the_weighted_loss_is_the_usual_one_at_weights_of_one():
    data, (kernel, bias) = examples(20), mnist_slices.normal_weights([784, 10], 0.1, 0)
    want = mnist_slices.cross_entropy([kernel, bias], data)
    got = hyper_cleaning.weighted_loss([tf.transpose(kernel), bias], 1.0, data)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    half = tf.constant([1.0] * 10 + [0.0] * 10)
    got = hyper_cleaning.weighted_loss([tf.transpose(kernel), bias], half, data)
    first = mnist_slices.Examples(*(array[:10] for array in data))
    np.testing.assert_allclose(
        got, mnist_slices.cross_entropy([kernel, bias], first) / 2, rtol=1e-5
    )


def test_weights_of_one_train_like_none():
    train, valid, test = examples(30), examples(30, 1), examples(100, 2)
    train = train._replace(labels=(train.labels + 1) % 10)
    got = hyper_cleaning.compare(train, valid, test, np.ones(30, bool), 0.3 * np.ones(30), 50)
    assert got["hyper-cleaning"] == got["all examples"] < got["oracle"]
    assert got["oracle"] == got["validation only"]


def test_wrong_labels_are_found(tmp_path):
    small = {"iterations": 30, "examples": 60, "total": 20.0, "steps": 30, "last_steps": 100}
    pool, test = examples(120), examples(100, 1)
    # Pixels that are black everywhere must not matter.
    pool, test = (part._replace(images=tf.nn.relu(part.images)) for part in (pool, test))
    pool = pool._replace(images=pool.images * tf.cast(tf.range(784) > 99, tf.float32))
    got = hyper_cleaning.run(pool, test, rate=0.03, **small)
    # To call all of them wrong has an F1 of 2/3.
    assert got["f1"][0] == 0 and got["f1"][-1] > 0.75
    assert got["valid_loss"][-1] < got["valid_loss"][0]
    weights = np.array(got["weights"])
    assert weights.min() >= 0 and weights.max() <= 1 and weights.sum() < 20.01
    assert set(got["accuracy"]) == set(hyper_cleaning.ROWS)
    runs = {0: got}
    assert f"{got['accuracy']['validation only']:.4f}" in hyper_cleaning.as_markdown(runs)
    hyper_cleaning.draw(runs, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_the_weighted_errors_gradient_by_differences():
    train, valid = (examples(12, seed) for seed in range(2))
    train, valid = (
        part._replace(images=tf.cast(part.images, tf.float64)) for part in (train, valid)
    )
    shapes = mnist_slices.shapes_of([784, 3, 10])
    random = np.random.default_rng(2)
    hyper = {
        "learning_rate": tf.constant(0.3, tf.float64),
        "example": tf.constant(random.normal(size=12)),
        "initial_weights": [tf.constant(0.1 * random.normal(size=shape)) for shape in shapes],
    }
    problem = weighted_error.training(train, valid, steps=4, batch_size=5, seed=0)
    found = hypergrad.reverse(problem, hyper["initial_weights"], hyper).hypergradient
    direction = tf.nest.map_structure(lambda x: tf.constant(random.normal(size=x.shape)), hyper)

    def loss(name, eps):
        def move(x, d):
            return x + eps * d

        moved = hyper | {name: tf.nest.map_structure(move, hyper[name], direction[name])}
        return float(hypergrad.train(problem, moved["initial_weights"], moved).valid_loss)

    for name in hyper:
        pairs = zip(tf.nest.flatten(found[name]), tf.nest.flatten(direction[name]), strict=True)
        got = sum(float(tf.reduce_sum(a * b)) for a, b in pairs)
        want = (loss(name, 1e-5) - loss(name, -1e-5)) / 2e-5
        assert got == pytest.approx(want, rel=1e-6)


def test_all_is_learned_at_once(tmp_path):
    small = {"iterations": 4, "sizes": (784, 4, 10), "steps": 8, "batch_size": 20}
    got = weighted_error.run(*(examples(60, seed) for seed in range(3)), **small)
    losses = [got[row]["valid_loss"] for row in ("everything", "learning rate", "before")]
    assert losses == sorted(losses) and losses[0] < 0.95 * losses[-1]
    assert got["everything"]["valid_losses"][0] == pytest.approx(got["before"]["valid_loss"])
    assert "| both sets |" in weighted_error.as_markdown({0: got})
    weighted_error.draw({0: got}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
