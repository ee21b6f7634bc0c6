"""Shared gradients against loops."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad

RANDOM = np.random.default_rng(0)
GRADIENT = {
    "bias": RANDOM.normal(size=3),
    "conv": RANDOM.normal(size=(2, 3, 4, 5)),
    "kernel": RANDOM.normal(size=(4, 3)),
}
TENSORS = tf.nest.map_structure(tf.constant, GRADIENT)


def test_units_are_the_rows_of_a_kernel_and_the_input_channels_of_a_convolution():
    got = hypergrad.share(TENSORS, "units")
    np.testing.assert_array_equal(got["bias"], np.zeros(3))
    for row in range(4):
        kernel = np.full(3, GRADIENT["kernel"][row].mean())
        np.testing.assert_allclose(got["kernel"][row], kernel)
        conv = np.full((2, 3, 5), GRADIENT["conv"][:, :, row].mean())
        np.testing.assert_allclose(got["conv"][:, :, row], conv)


def test_layers_and_all():
    layers, everything = (hypergrad.share(TENSORS, how) for how in ("layers", "all"))
    mean = np.concatenate([leaf.ravel() for leaf in GRADIENT.values()]).mean()
    for name, leaf in GRADIENT.items():
        np.testing.assert_allclose(layers[name], np.full(leaf.shape, leaf.mean()))
        np.testing.assert_allclose(everything[name], np.full(leaf.shape, mean))


def test_signs():
    got = hypergrad.share(TENSORS, "units", sign=True)
    np.testing.assert_array_equal(got["bias"], np.zeros(3))
    np.testing.assert_array_equal(got["kernel"][:, 0], np.sign(GRADIENT["kernel"].mean(1)))


def test_refuses_another_sharing():
    with pytest.raises(ValueError, match="units"):
        hypergrad.share(TENSORS, "neurons")
