"""Products in bfloat16: how far off they are, and what stays exact."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.rules import kernels

pytestmark = pytest.mark.onednn

_random = np.random.default_rng(9)
IMAGES = tf.constant(_random.normal(size=(8, 8, 8, 3)), tf.float32)
LABELS = tf.constant(_random.integers(0, 5, 8))
W = {
    "k": tf.constant(0.3 * _random.normal(size=(3, 3, 3, 8)), tf.float32),
    "b": tf.constant(0.1 * _random.normal(size=8), tf.float32),
    "d": tf.constant(0.1 * _random.normal(size=(128, 5)), tf.float32),
}
V = tf.nest.map_structure(lambda leaf: tf.constant(_random.normal(size=leaf.shape), tf.float32), W)

OPERATORS = {
    "gauss_newton": (custom_op.gauss_newton, {}),
    "sampled": (custom_op.fisher, {"kind": "sampled"}),
    "hessian": (custom_op.hessian, {}),
}


def network(p):
    h = tf.nn.conv2d(IMAGES, tf.cast(p["k"], IMAGES.dtype), 1, "SAME") + p["b"]
    h = tf.nn.max_pool2d(tf.nn.relu(h), 2, 2, "SAME")
    return tf.einsum("bi,ij->bj", tf.reshape(h, [8, -1]), p["d"])


def _flat(structure):
    return np.concatenate([np.reshape(leaf, -1) for leaf in tf.nest.flatten(structure)])


@pytest.mark.parametrize("name", OPERATORS)
def test_error_of_the_products(name):
    make, settings = OPERATORS[name]

    @tf.function(autograph=False)
    def run(w, v):
        result = []
        for dtype in (None, "bfloat16"):
            operator = make(
                network, w, "softmax_cross_entropy", LABELS, product_dtype=dtype, **settings
            )
            result.append((operator @ v, operator.gradient(), operator.outputs, operator.loss()))
        return result

    exact, rough = run(W, V)
    error = np.linalg.norm(_flat(rough[0]) - _flat(exact[0])) / np.linalg.norm(_flat(exact[0]))
    # Rounding to 8 bits is 2⁻⁹ at most; a few of them add up. No rounding at all would be less.
    assert 3e-4 < error < 1e-2
    assert all(leaf.dtype == tf.float32 for leaf in tf.nest.flatten(rough))
    for got, expected in zip(rough[1:], exact[1:], strict=True):
        np.testing.assert_allclose(_flat(got), _flat(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sums_in_float32", [True, False])
def test_which_operations_are_narrow(sums_in_float32, monkeypatch):
    monkeypatch.setattr(kernels, "sums_bfloat16_in_float32", lambda: sums_in_float32)

    @tf.function(autograph=False)
    def run(w, v):
        return custom_op.gauss_newton(
            network, w, "softmax_cross_entropy", LABELS, product_dtype="bfloat16"
        ).matvec(v)

    kinds = ("Conv2D", "Conv2DBackpropFilter", "Einsum")
    found = {(kind, dtype): 0 for kind in kinds for dtype in (tf.float32, tf.bfloat16)}
    narrowed = 0
    for op in run.get_concrete_function(W, V).graph.get_operations():
        if op.type in kinds:
            found[op.type, op.outputs[0].dtype] += 1
        narrowed += op.type == "Cast" and op.outputs[0].dtype == tf.bfloat16
    assert narrowed > 3
    if not sums_in_float32:
        # Kernels that would round the sums are not used: the operands alone are rounded.
        assert all(found[kind, tf.bfloat16] == 0 for kind in kinds)
        return
    # The forward pass alone is in float32.
    assert found["Conv2D", tf.float32] == found["Einsum", tf.float32] == 1
    assert found["Conv2DBackpropFilter", tf.float32] == 0
    assert min(found[kind, tf.bfloat16] for kind in kinds) > 0


def test_products_are_those_of_a_symmetric_matrix_and_eager_ones_agree():
    u = tf.nest.map_structure(lambda leaf: 2 * leaf[::-1], V)

    def run(w, *vectors):
        operator = custom_op.gauss_newton(
            network, w, "softmax_cross_entropy", LABELS, product_dtype="bfloat16"
        )
        return [operator @ v for v in vectors]

    (gv, gu), eager = tf.function(run, autograph=False)(W, V, u), run(W, V)[0]
    np.testing.assert_allclose(_flat(gv), _flat(eager), rtol=0.02, atol=2e-3 * abs(_flat(gv)).max())
    a, b = _flat(u) @ _flat(gv), _flat(V) @ _flat(gu)
    assert abs(a - b) < 0.01 * np.linalg.norm(_flat(u)) * np.linalg.norm(_flat(gv))


def test_a_data_set_and_float64():
    def of_inputs(p, images):
        return tf.reshape(images, [images.shape[0], -1])[:, :128] @ p

    data = [(IMAGES[:5], LABELS[:5]), (IMAGES[5:], LABELS[5:])]
    exact = custom_op.gauss_newton(of_inputs, W["d"], "softmax_cross_entropy", data=data)
    rough = custom_op.gauss_newton(
        of_inputs, W["d"], "softmax_cross_entropy", data=data, product_dtype="bfloat16"
    )
    error = np.linalg.norm(rough @ V["d"] - exact @ V["d"]) / np.linalg.norm(exact @ V["d"])
    assert 3e-4 < error < 1e-2
    # Who asks for float64 wants its digits.
    w = tf.cast(W["d"], tf.float64)
    x = tf.cast(tf.reshape(IMAGES, [8, -1])[:, :128], tf.float64)
    pair = [
        custom_op.gauss_newton(
            lambda w: x @ w, w, "softmax_cross_entropy", LABELS, product_dtype=dtype
        ).matvec(w)
        for dtype in (None, "bfloat16")
    ]
    np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize("dtype", ["float16", "bf16", tf.float32])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match='product_dtype="bfloat16" or None, got'):
        custom_op.gauss_newton(network, W, "softmax_cross_entropy", LABELS, product_dtype=dtype)
