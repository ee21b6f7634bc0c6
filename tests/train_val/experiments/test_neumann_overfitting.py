"""The overfitting problem in small, and its exact solution against a dense one."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from tests.train_val.experiments.clouds import examples
from train_val.experiments import mnist_slices, neumann_overfitting


def few_pixels(count, seed):
    images, labels = examples(count, seed)
    return mnist_slices.Examples(10 * images[:, :6], labels)


TRAIN, VALID = few_pixels(30, 1), few_pixels(30, 2)
SIZES = (6, 4, 10)


@pytest.mark.parametrize("terms", [0, 20])
def test_penalties_fit_the_validation_images(terms, monkeypatch):
    def last_loss(rate):
        monkeypatch.setattr(neumann_overfitting, "OUTER_RATE", rate)
        curves, _ = neumann_overfitting.learn(
            TRAIN, VALID, VALID, terms, sizes=SIZES, iterations=15, steps=10
        )
        return curves["valid_loss"][-1]

    # Training alone makes the validation loss grow; against the gradient it would grow faster.
    assert last_loss(0.2) < 0.95 * last_loss(0.0)


@pytest.mark.slow
def test_the_table_and_the_picture(tmp_path):
    run = neumann_overfitting.run(TRAIN, VALID, VALID, sizes=SIZES, iterations=3, steps=20)
    assert set(run["compared"]) == {"0", "1", "2", "3"}
    assert "Gauss-Newton" in neumann_overfitting.as_markdown({0: run})
    neumann_overfitting.draw({0: run}, tmp_path / "cosines.png")
    assert (tmp_path / "cosines.png").stat().st_size > 1000


def test_the_cosines_are_those_of_dense_matrices():
    weights = neumann_overfitting.first_weights(SIZES, 1)
    hyper = {"log_l2": [tf.fill(leaf.shape, -3.0) for leaf in weights]}
    problem = neumann_overfitting.make_problem(TRAIN, VALID, 300)
    weights = hypergrad.train(problem, weights, hyper).weights
    found = neumann_overfitting.compare(TRAIN, VALID, weights, hyper)

    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = mnist_slices.cross_entropy(weights, VALID)
    b = np.concatenate([np.ravel(leaf) for leaf in tape.gradient(loss, weights)])
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(weights)
            loss = problem.train_loss(weights, hyper, 0)
        rows = [tf.reshape(part, [-1]) for part in inner.gradient(loss, weights)]
    hessian = np.concatenate(
        [
            np.concatenate([np.reshape(part, [int(row.shape[0]), -1]) for part in parts], 1)
            for row in rows
            for parts in [outer.jacobian(row, weights)]
        ]
    )
    flat = np.concatenate([np.ravel(leaf) for leaf in weights])

    def hypergradient(q):
        return -2 * np.exp(-3.0) * flat * q

    lowest = np.linalg.eigvalsh(hessian)[0]
    # No more damping than the least eigenvalue asks for, if it is negative.
    assert lowest + found["damping"] > 0 and (lowest < 0) == (found["damping"] > 0)
    exact = hypergradient(np.linalg.solve(hessian + found["damping"] * np.eye(len(b)), b))
    for terms in (0, 5, 1000):
        total = v = b
        for _ in range(terms):
            v = v - neumann_overfitting.RATE * hessian @ v
            total = total + v
        right = neumann_overfitting.cosine(hypergradient(total), exact)
        assert found["cosines"][f"K = {terms}"][0] == pytest.approx(right, abs=1e-3)
    assert found["cosines"]["K = 1000"][0] > found["cosines"]["K = 0"][0]
