"""Random small Keras models: a step as `train_on_batch` takes it, products of dense matrices."""

import pytest

from benchmarks.random_cases import keras_models
from benchmarks.random_cases.outcome import OK

# Without products, which seeds that four divides have.
STEPS = [seed for seed in range(100, 120) if seed % 4]
PRODUCTS = [100]


@pytest.mark.parametrize("seed", STEPS + PRODUCTS)
def test_a_random_model(seed):
    outcome = keras_models.run_case(seed)
    assert set(outcome.modes.values()) == {OK}, (outcome.program, outcome.notes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 240, 4))
def test_products_of_a_random_model_under_xla_too(seed):
    outcome = keras_models.run_case(seed, thorough=True)
    assert set(outcome.modes.values()) == {OK}, (outcome.program, outcome.notes)
