"""Newton-Schulz iterations against a singular value decomposition; what is taken as a matrix."""

import numpy as np
import pytest
import tensorflow as tf

from custom_op import structures
from mlhf.optimizers import orthogonalization
from mlhf.optimizers.orthogonalization import (
    QUINTIC,
    as_matrix,
    matrices,
    orthogonalize,
    orthogonalize_all,
)


def by_singular_values(matrix, iterations):
    """The same polynomial, of the singular values."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(iterations):
        s = sum(c * s**power for c, power in zip(QUINTIC, (1, 3, 5), strict=True))
    return (u * s) @ v


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (6, 5), (4, 4), (3, 9, 2)])
def test_it_is_the_polynomial_of_the_singular_values(shape):
    matrix = np.random.default_rng(0).normal(size=shape) * 1e-3
    stacked = matrix.reshape(-1, *shape[-2:])
    for iterations in (0, 1, 5):
        expected = [by_singular_values(part, iterations) for part in stacked]
        found = orthogonalize(tf.constant(matrix), iterations)
        np.testing.assert_allclose(found, np.reshape(expected, shape), atol=1e-10)
    singular = np.linalg.svd(found, compute_uv=False)
    assert 0.6 < singular.min() and singular.max() < 1.2


def test_both_ways_agree_and_float32_comes_close():
    random = np.random.default_rng(1)
    u, _ = np.linalg.qr(random.normal(size=(96, 24)))
    v, _ = np.linalg.qr(random.normal(size=(24, 24)))
    # Singular values over six decades.
    matrix = (u * 10.0 ** -np.linspace(0, 6, 24)) @ v
    expected = by_singular_values(matrix, 5)
    for way in (orthogonalization._directly, orthogonalization._by_gram):
        found = way(tf.constant(matrix / np.linalg.norm(matrix)), 5, QUINTIC)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    for scale in (1.0, 1e-30, 1e30):
        found = orthogonalize(tf.constant(scale * matrix, tf.float32))
        assert found.dtype == tf.float32
        assert np.linalg.norm(found - expected, 2) < 2e-3
    np.testing.assert_array_equal(orthogonalize(tf.zeros([6, 2])), np.zeros([6, 2]))


def test_kernels_become_matrices_from_inputs_to_outputs():
    kernel = np.arange(2 * 2 * 3 * 5.0).reshape(2, 2, 3, 5)
    np.testing.assert_array_equal(as_matrix(tf.constant(kernel)), kernel.reshape(12, 5))
    assert as_matrix(tf.zeros([6, 2, 3]), 1).shape == (6, 6)


PARAMETERS = {
    "conv1": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "conv_dw": {"kernel": (3, 3, 4, 1)},
    "token_embedding": {"embeddings": (30, 8)},
    "block": {
        "query": {"kernel": (8, 2, 3), "bias": (2, 3)},
        "attention_output": {"kernel": (2, 3, 8)},
        "norm": {"gamma": (8,)},
    },
    "gru": {"kernel": (8, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)},
    "class_token": (2, 8),
    "logits": {"kernel": (8, 3), "bias": (3,)},
}


def _tensors(part):
    if isinstance(part, dict):
        return {name: _tensors(value) for name, value in part.items()}
    return np.zeros(part)


def test_which_parameters_are_matrices():
    parameters = {name: _tensors(part) for name, part in PARAMETERS.items()}
    paths = structures.leaf_names(parameters)
    forms = dict(zip(paths, matrices(parameters), strict=True))
    sides = {path: form[1:] for path, form in forms.items() if form is not None}
    assert sides == {
        "block/attention_output/kernel": (6, 8),
        "block/query/kernel": (8, 6),
        "conv1/kernel": (18, 4),
        "gru/kernel": (8, 12),
        "gru/recurrent_kernel": (4, 12),
        "logits/kernel": (8, 3),
    }
    fewer = matrices(parameters, ["logits", "gru/kernel"])
    left = {path for path, form in zip(paths, fewer, strict=True) if form is not None}
    assert left == set(sides) - {"logits/kernel", "gru/kernel"}
    with pytest.raises(ValueError, match=r"^Expected excluded= to name .*got \['logit'\] too"):
        matrices(parameters, ["logit", "gru"])


def test_all_at_once_is_one_after_the_other_eager_and_compiled():
    random = np.random.default_rng(2)
    shapes = [(2, 2, 3, 4), (12, 4), (5,), (4, 12)]
    tensors = [tf.constant(random.normal(size=shape)) for shape in shapes]
    named = {f"dense{n}": {"kernel": tensor} for n, tensor in enumerate(tensors)}
    forms = matrices(named)
    found = orthogonalize_all(tensors, forms)
    for tensor, result in zip(tensors, found, strict=True):
        expected = tensor
        if len(tensor.shape) > 1:
            expected = tf.reshape(orthogonalize(as_matrix(tensor)), tensor.shape)
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    compiled = tf.function(lambda *parts: orthogonalize_all(parts, forms), jit_compile=True)
    for result, again in zip(found, compiled(*tensors), strict=True):
        np.testing.assert_allclose(result, again, atol=1e-11)
