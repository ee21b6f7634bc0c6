"""MLHF's states of files: those of other optimizers and networks are refused by name."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer import coordinate_lstm
from mlhf.meta_optimizer.portable_state import from_portable, to_portable
from tests.contract import start


def as_file(structure):
    return tf.nest.map_structure(np.asarray, structure)


def test_a_meta_state_comes_back_and_others_are_refused():
    optimizer, parameters = mlhf.MetaHessianFree(), start(tf.float32)
    like, layout = optimizer.init(parameters), optimizer.layout(parameters)
    state = tf.nest.map_structure(lambda leaf: leaf + 0.5, like)
    state = state._replace(solution=layout.mask(), residual=2 * layout.mask())
    saved = as_file(to_portable(state, layout))
    for a, b in zip(
        tf.nest.flatten(from_portable(saved, like, layout, True)),
        tf.nest.flatten(state),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    kernel = saved["solution"]["dense"]["kernel"]

    def refused(change, match, finite=False):
        with pytest.raises(ValueError, match=match):
            from_portable({**saved, **change}, like, layout, finite)

    def solution(value):
        return {"solution": {"dense": {**saved["solution"]["dense"], "kernel": value}}}

    # As many numbers in another shape: a network of its own.
    refused(solution(kernel.T), r"solution/dense/kernel of the shape \(4, 2\).*found.*\(2, 4\)")
    refused(solution(kernel.astype(int)), "dense/kernel .* in float32, found int64")
    refused(solution(kernel * np.nan), "finite numbers in solution/dense/kernel", True)
    refused({"solution": {"w": kernel}}, "solution with 2 arrays.*found 1")
    refused({"damping": np.zeros(2)}, r"damping of the shape \(\)")
    refused({"lstm": {"d": saved["lstm"]["d"]}}, r"roles \['d', 'y'\], found \['d'\]")
    refused({"lstm": {**saved["lstm"], "d": saved["lstm"]["d"][:, 1:]}}, "lstm/d of the shape")
    with pytest.raises(ValueError, match=r"found one without \['damping', 'lstm', 'residual'"):
        from_portable({"leaves": []}, like, layout)
    with pytest.raises(ValueError, match="Expected a saved state, found list"):
        from_portable([1, 2], like, layout)
    # Of a rate that is scheduled the steps are counted: from 0 where a file is older.
    counted = like._replace(step=tf.constant(0))
    assert int(from_portable(saved, counted, layout).step) == 0
    saved = as_file(to_portable(state._replace(step=tf.constant(7)), layout))
    assert int(from_portable(saved, counted, layout).step) == 7
    assert from_portable(saved, like, layout).step == ()


def test_training_goes_on_with_another_number_of_cores(monkeypatch):
    """The LSTMs' state is laid out by cores, a file is not."""
    random = np.random.default_rng(0)
    shapes = {"dense/kernel": (400, 350), "logits/kernel": (350, 3)}
    weights = {name: random.normal(0, 0.1, shape).astype("f") for name, shape in shapes.items()}
    x, y = random.normal(size=(24, 400)).astype("f"), random.integers(0, 3, 24)

    def network(w, inputs):
        return tf.tanh(inputs @ w["dense/kernel"]) @ w["logits/kernel"]

    objective = mlhf.Objective(network, "softmax_cross_entropy", x, y)

    def trained(cores, parameters, saved=None):
        monkeypatch.setattr(coordinate_lstm.os, "cpu_count", lambda: cores)
        # Two learned rules, whose weights have the optimizer's seed.
        optimizer = mlhf.MetaHessianFree(0.3, damping=1.0, seed=3)
        state = optimizer.init(parameters)
        lanes = len(state.lstm["d"])
        if saved is not None:
            state = optimizer.from_saved(saved, state, parameters)
        for _ in range(3):
            parameters, state, _, _ = optimizer.step(objective, parameters, state)
        return parameters, as_file(optimizer.to_saved(state, parameters)), lanes

    start = tf.nest.map_structure(tf.constant, weights)
    middle, saved, one = trained(1, start)
    (same, *_), (other, _, four) = trained(1, middle, saved), trained(4, middle, saved)
    assert (one, four) == (1, 4)
    for name in shapes:
        assert np.abs(same[name] - middle[name]).max() > 1e-4
        np.testing.assert_allclose(other[name], same[name], rtol=1e-5, atol=1e-6)
