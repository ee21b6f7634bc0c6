"""Batches of any size, with few compilations."""

import numpy as np
import pytest

import mlhf
from mlhf.keras import train_function
from tests.mlhf.keras.small_models import CROSS_ENTROPY, X, Y, fit, network, sgd


def test_two_sizes_have_functions_of_their_own_and_all_others_share_one():
    model, other = network(dropout=0), network(dropout=0)
    for one in (model, other):
        mlhf.keras.compile(one, sgd(), CROSS_ENTROPY)
    sizes = [8, 4, 7, 3, 2]
    for size in sizes:
        fit(model, X[:size], Y[:size])
    function = model.train_function
    assert len(function._compiled) == 2 and len(function._any_size) == 1
    for size in sizes:
        mlhf.keras.compile(other, other.optimizer, CROSS_ENTROPY)
        fit(other, X[:size], Y[:size])
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: mlhf.HessianFree(curvature_share=0.5),
        mlhf.MartensHessianFree,
        mlhf.Muon,
        lambda: mlhf.KFAC(0.1),
        lambda: mlhf.MetaHessianFree.from_pretrained("resnet"),
    ],
)
def test_every_optimizer_takes_batches_of_any_size(make):
    model = network()
    mlhf.keras.compile(model, make(), CROSS_ENTROPY)
    for size in (8, 4, 7, 3):
        assert np.isfinite(fit(model, X[:size], Y[:size])["loss"][0])
    static = model.optimizer.optimizer.needs_known_sizes
    assert len(model.train_function._compiled) == (4 if static else 2)


def test_the_last_execution_of_an_epoch_may_have_fewer_steps():
    model = network()
    mlhf.keras.compile(model, sgd(), CROSS_ENTROPY, steps_per_execution=3)
    fit(model, X[:16], Y[:16], batch_size=4, epochs=2)
    assert int(model.optimizer.iterations.numpy()) == 8


def test_a_batch_at_a_time_and_data_without_weights():
    model = network()
    mlhf.keras.compile(model, sgd(), CROSS_ENTROPY)
    first = model.train_on_batch(X[:8], Y[:8])
    for _ in range(20):
        last = model.train_on_batch(X[:8], Y[:8])
    assert np.ravel(last)[0] < np.ravel(first)[0]
    assert train_function._STATIC_SIZES == 2


def test_an_iterator_without_batches_ends():
    model = network()
    mlhf.keras.compile(model, sgd(), CROSS_ENTROPY)
    with pytest.raises(StopIteration):
        model.make_train_function()(iter([]))
