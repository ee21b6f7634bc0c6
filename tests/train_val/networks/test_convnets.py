import numpy as np
import pytest

from train_val.networks import convnets

# Of the kernels, in the order of the layers; and what the biases begin with.
CONVNET = ((0.05, 0.0), (0.05, 0.0), (0.04, 0.1), (0.04, 0.1), (1 / 192, 0.0))


def test_convnet_has_the_papers_parameters_and_initial_weights():
    model = convnets.convnet((32, 32, 3), 10)
    assert model.count_params() == 1_756_426
    weights = model.get_weights()
    assert [w.shape for w in weights[::2]] == [
        (5, 5, 3, 64),
        (5, 5, 64, 64),
        (4096, 384),
        (384, 192),
        (192, 10),
    ]
    for kernel, bias, (stddev, constant) in zip(weights[::2], weights[1::2], CONVNET, strict=True):
        assert kernel.std() == pytest.approx(stddev, rel=4 / np.sqrt(2 * kernel.size))
        assert abs(kernel.mean()) < 5 * stddev / np.sqrt(kernel.size)
        np.testing.assert_array_equal(bias, np.float32(constant))


def test_mlp_has_20_sigmoid_units_and_normal_weights():
    model = convnets.mlp((8, 8, 1), 10)
    weights = model.get_weights()
    assert [w.shape for w in weights] == [(64, 20), (20,), (20, 10), (10,)]
    everything = np.concatenate([w.ravel() for w in weights])
    assert everything.std() == pytest.approx(0.01, rel=0.1)
    assert all(np.any(bias) for bias in weights[1::2])
    assert model.layers[-2].activation.__name__ == "sigmoid"


@pytest.mark.parametrize("build", [convnets.convnet, convnets.mlp])
def test_weights_are_a_function_of_the_seed(build):
    first, again, other = (build((8, 8, 1), 10, seed=seed).get_weights() for seed in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(first[0] != other[0])
