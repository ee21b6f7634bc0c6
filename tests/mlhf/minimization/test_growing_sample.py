"""Samples of examples: what they hold, when they grow, and what `mlhf.minimize` does with them."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.minimization.growing_sample import GROWING, GrowingSample

SIZE = 200
X = np.random.default_rng(0).uniform(-1, 1, (SIZE, 2))
Y = np.sin(3 * X[:, :1]) * np.cos(2 * X[:, 1:])


def network(parameters, x):
    return tf.tanh(x @ parameters["hidden"] + parameters["bias"]) @ parameters["output"]


def start(width=8):
    random = np.random.default_rng(1)
    return {
        "hidden": tf.constant(random.normal(size=(2, width))),
        "bias": tf.constant(random.normal(size=width)),
        "output": tf.constant(random.normal(size=(width, 1)) / width**0.5),
    }


def make(weights=None, size=SIZE):
    return mlhf.Objective(
        network, "squared_error", tf.constant(X[:size]), tf.constant(Y[:size]), weights=weights
    )


def in_pairs(sample):
    """Returns the numbers of the examples that a sample has, which its targets must fit."""
    numbers = [int(np.flatnonzero((X == x).all(1))[0]) for x in sample.inputs.numpy()]
    np.testing.assert_array_equal(sample.targets, Y[numbers])
    return numbers


def test_a_sample_has_new_examples_with_their_targets_and_weights():
    weights = np.arange(SIZE) / SIZE
    whole = make(tf.constant(weights))
    samples = GrowingSample(whole, 25, seed=3)
    first, second = samples.draw(whole), samples.draw(whole)
    numbers = in_pairs(first)
    assert len(set(numbers)) == 25 and set(numbers) != set(in_pairs(second))
    np.testing.assert_array_equal(first.weights, weights[numbers])
    again = GrowingSample(whole, 25, seed=3).draw(whole)
    np.testing.assert_array_equal(again.inputs, first.inputs)
    # On average the loss is that of all examples.
    plain = make()
    losses = [samples.draw(plain).data_loss(start()) for _ in range(300)]
    expected = float(plain.data_loss(start()))
    assert abs(np.mean(losses) - expected) < 4 * np.std(losses) / 300**0.5


def test_each_term_of_a_sum_is_sampled_by_the_same_share():
    whole = mlhf.ObjectiveSum({"inside": make(), "edge": make(size=40)}, {"edge": 2.0})
    samples = GrowingSample(whole, GROWING)
    sizes = [t.objective.targets.shape[0] for t in samples.draw(whole).terms]
    assert dict(zip([t.name for t in whole.terms], sizes, strict=True)) == {
        "inside": 16,
        "edge": 16,
    }
    each = [o.batch_size() for o in samples.of_each_size(whole)]
    assert each == [16 + 16, 25 + 16, 50 + 16, 100 + 20, 240] and samples.share == 1 / 16


def note(samples, whole, before, after):
    """Notes a step whose losses are given."""
    sample = samples.draw(whole)
    samples._value = lambda *_: after
    samples.note(sample, before, None)


@pytest.mark.parametrize(
    ("fall", "gap", "grows"),
    [(0.0, 1.2, True), (0.5, 1.2, True), (0.5, 0.7, False), (0.01, 0.7, True), (0.0, 0.05, False)],
)
def test_samples_grow_if_steps_fit_them_better_than_new_ones(fall, gap, grows):
    whole = make()
    samples = GrowingSample(whole, 25)
    for step in range(17):
        note(samples, whole, np.exp(-fall * step), np.exp(-fall * (step + 1) - gap))
    assert samples.share == (0.25 if grows else 0.125) and not samples.is_whole
    # Losses on samples of another size are forgotten.
    assert len(samples._before) == (1 if grows and gap < 1 else 8 if grows else 17)


@pytest.mark.parametrize(("falls", "grows"), [(True, True), (False, False)])
def test_samples_grow_where_losses_stand_still_below_the_first_plateau(falls, grows):
    whole = make()
    samples = GrowingSample(whole, 25)
    for step in range(40):
        loss = np.exp(-min(step, 5)) if falls else 1.0
        note(samples, whole, loss, 0.99 * loss)
    assert samples.share == (0.25 if grows else 0.125)


def test_a_loss_of_zero_and_a_large_one_are_numbers():
    whole = make()
    samples = GrowingSample(whole, 25)
    for _ in range(9):
        note(samples, whole, np.inf, 0.0)
    assert samples.share == 0.25


def test_all_examples_are_the_objective_itself():
    whole = make()
    assert GrowingSample(whole, SIZE).draw(whole) is whole
    samples = GrowingSample(whole, SIZE // 2)
    for _ in range(9):
        note(samples, whole, 1.0, 0.01)
    assert samples.is_whole and samples.draw(whole) is whole


def test_minimize_ends_on_all_examples_at_their_minimum():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mlhf.minimize(
            make(), start(), "lm", steps=400, tolerance=1e-6, sample=GROWING, progress=False
        )
    whole = mlhf.minimize(make(), start(), "lm", steps=400, tolerance=1e-6, progress=False)
    assert result.success and result.loss < 2 * whole.loss
    assert result.loss == pytest.approx(float(make().data_loss(result.parameters)), rel=1e-12)


def test_a_loss_on_a_sample_is_neither_the_best_nor_the_target():
    result = mlhf.minimize(make(), start(), "lm", steps=3, target=1e9, sample=20, progress=False)
    assert result.steps == 3 and "steps" in result.message
    assert result.loss == pytest.approx(float(make().data_loss(result.parameters)), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "l-bfgs", "sample": 10}, "no sample= with 'l-bfgs'"),
        ({"objective": lambda step: make(), "sample": 10}, "got a function"),
        ({"sample": 0}, "sample"),
        ({"sample": "small"}, "growing"),
    ],
)
def test_what_cannot_be_sampled_is_refused(arguments, words):
    given = {"objective": make(), "parameters": start(), "method": "lm", "steps": 1, **arguments}
    with pytest.raises(ValueError, match=words):
        mlhf.minimize(**given, progress=False)
