"""Operators on a whole data set: the same numbers however it is cut into batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op.operators import dataset_operator

_random = np.random.default_rng(1)
N = 11
X = _random.normal(size=(N, 4))
Y = _random.integers(0, 3, N)
WEIGHTS = _random.uniform(0.5, 2, N)
MASK = np.array([True, True, False] * 3 + [False, True])
W = {
    "w": tf.constant(_random.normal(size=(4, 5))),
    "b": tf.constant(_random.normal(size=5)),
    "v": tf.constant(_random.normal(size=(5, 3))),
}
V = tf.nest.map_structure(lambda leaf: tf.constant(_random.normal(size=leaf.shape)), W)

OPERATORS = {
    "gauss_newton": (custom_op.gauss_newton, {}),
    "hessian": (custom_op.hessian, {}),
    "exact": (custom_op.fisher, {}),
    "sampled": (custom_op.fisher, {"kind": "sampled", "samples": 3, "seed": 4}),
    "empirical": (custom_op.fisher, {"kind": "empirical"}),
}


def network(p, x):
    return tf.tanh(x @ p["w"] + p["b"]) @ p["v"]


def _cut(*sizes, parts=(X, Y)):
    ends = np.cumsum(sizes)
    assert ends[-1] == N
    return [
        tuple(part[end - size : end] for part in parts)
        for end, size in zip(ends, sizes, strict=True)
    ]


def _flat(structure):
    return np.concatenate([np.reshape(leaf, -1) for leaf in tf.nest.flatten(structure)])


@pytest.mark.parametrize("name", OPERATORS)
def test_the_cut_does_not_matter(name):
    make, settings = OPERATORS[name]
    parts = (X, Y, WEIGHTS, MASK)
    whole = make(
        lambda p: network(p, X),
        W,
        "softmax_cross_entropy",
        Y,
        weights=WEIGHTS,
        mask=MASK,
        **settings,
    )
    expected = [_flat(whole @ V), _flat(whole.gradient()), whole.loss()]
    # Unequal batches; the third of the second cut is masked out altogether.
    for sizes in ((4, 4, 3), (2, 6, 1, 2)):
        data = _cut(*sizes, parts=parts)
        operator = make(network, W, "softmax_cross_entropy", data=data, **settings)
        found = [_flat(operator @ V), _flat(operator.gradient()), operator.loss()]
        for got, value in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, value, rtol=1e-11, atol=1e-13)
        if name == "empirical":
            assert not MASK[8] and sizes[2] in (3, 1)


def test_columns_and_solvers_share_a_pass():
    passes = []

    class Counted:
        def __iter__(self):
            passes.append(1)
            return iter(_cut(4, 4, 3))

    operator = custom_op.gauss_newton(network, W, "softmax_cross_entropy", data=Counted())
    before = len(passes)
    dense = operator.to_dense()
    assert len(passes) == before + 1
    whole = custom_op.gauss_newton(lambda p: network(p, X), W, "softmax_cross_entropy", Y)
    np.testing.assert_allclose(dense, whole.to_dense(), atol=1e-13)
    v = _random.normal(size=operator.shape[0])
    np.testing.assert_allclose(operator.to_scipy() @ v, dense.numpy() @ v, atol=1e-13)
    adapted = operator.to_linear_operator(damping=0.5)
    found = tf.linalg.experimental.conjugate_gradient(adapted, tf.constant(v), tol=1e-12)
    np.testing.assert_allclose(found.x, np.linalg.solve(dense + 0.5 * np.eye(len(v)), v))


def test_traces_are_few_and_serve_other_parameters(monkeypatch):
    monkeypatch.setattr(dataset_operator, "_STATIC_SHAPES", 2)
    traced = []

    def seen(p, x):
        traced.append(x.shape)
        return network(p, x)

    # Without the runs that look whether the function stays the same.
    operator = custom_op.gauss_newton(
        seen,
        W,
        "softmax_cross_entropy",
        data=_cut(1, 2, 3, 4, 1),
        check_deterministic=False,
    )
    whole = custom_op.gauss_newton(lambda p: network(p, X), W, "softmax_cross_entropy", Y)
    np.testing.assert_allclose(_flat(operator @ V), _flat(whole @ V), atol=1e-13)
    # Two shapes for themselves; the third is the first of the shared ones, which then relax.
    assert len(traced) <= 4 and traced[-1] == (None, 4)
    done = len(traced)
    moved = tf.nest.map_structure(lambda leaf: 0.5 * leaf, W)
    whole = custom_op.gauss_newton(lambda p: network(p, X), moved, "softmax_cross_entropy", Y)
    np.testing.assert_allclose(_flat(operator.at(moved) @ V), _flat(whole @ V), atol=1e-13)
    operator @ V
    assert len(traced) == done


class _Items(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return _cut(4, 4, 3)[i]


def test_kinds_of_data_and_the_bar(capsys):
    expected = custom_op.gauss_newton(network, W, "softmax_cross_entropy", data=_cut(N)).loss()
    for data in (tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), _Items()):
        operator = custom_op.gauss_newton(network, W, "softmax_cross_entropy", data=data)
        np.testing.assert_allclose(operator.loss(), expected)
    assert capsys.readouterr().err == ""
    operator = custom_op.gauss_newton(
        network, W, "softmax_cross_entropy", data=_cut(4, 7), progress=True
    )
    operator.loss()
    assert "| 0/2 [" in capsys.readouterr().err


def test_float32_is_summed_in_float64():
    """One large share and many small ones, which a sum in float32 would lose."""
    data = [(np.float32([[4096.0]]), np.float32([[0.0]]))] + [
        (np.float32([[0.5]]), np.float32([[0.0]]))
    ] * 64
    operator = custom_op.gauss_newton(
        lambda w, x: x * w, tf.constant([1.0]), "squared_error", data=data
    )
    exact = (4096.0**2 + 64 * 0.25) / 65
    np.testing.assert_allclose(operator @ tf.constant([1.0]), [exact], rtol=1e-7)


def test_bad_data_says_expected_and_got():
    def make(data, **settings):
        return custom_op.gauss_newton(network, W, "softmax_cross_entropy", data=data, **settings)

    with pytest.raises(TypeError, match="iterated over again.*got generator.*pass list"):
        make(batch for batch in _cut(N))
    with pytest.raises(TypeError, match="iterable of batches.*got int"):
        make(3)
    with pytest.raises(ValueError, match="comes to an end.*infinite length"):
        make(tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).repeat())
    make(tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).repeat().take(3))
    with pytest.raises(ValueError, match="at least one batch.*got none"):
        make([])
    with pytest.raises(ValueError, match="got 1 parts"):
        make([(X,)])
    with pytest.raises(ValueError, match="got None for the targets"):
        make([(X, None)])
    with pytest.raises(ValueError, match="got a scalar"):
        make([(X, 1)])
    with pytest.raises(ValueError, match="one example that is not masked, got 1 batches"):
        make([(X, Y, None, np.zeros(N, bool))]).loss()
    with pytest.raises(ValueError, match="either targets.*or data"):
        custom_op.fisher(network, W, "softmax_cross_entropy", Y, data=_cut(N))
    with pytest.raises(ValueError, match="targets of a batch, or data="):
        custom_op.hessian(lambda p: network(p, X), W, "softmax_cross_entropy")
    with pytest.raises(ValueError, match=r"flat vector of shape \(40,\), got \(3,\)"):
        make(_cut(N)) @ np.zeros(3)
    with pytest.raises(ValueError, match="tangents of the structure"):
        make(_cut(N)) @ {"w": W["w"]}

    operator = make(_cut(N))
    with pytest.raises(RuntimeError, match="eagerly: call it outside any tf.function"):
        tf.function(lambda: operator @ V, autograph=False)()


def test_data_that_changes_between_passes():
    class Shrinking:
        def __init__(self):
            self.size = N + 2

        def __iter__(self):
            self.size -= 1
            return iter([(X[: self.size], Y[: self.size])])

    operator = custom_op.gauss_newton(
        network, W, "softmax_cross_entropy", data=Shrinking(), check_deterministic=False
    )
    operator.loss()
    with pytest.raises(ValueError, match="same data in every pass, 1 batches of 11 .* got 1 of 10"):
        operator.loss()
