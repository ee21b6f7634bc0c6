"""Every operator on every case against a dense matrix that NumPy makes by other means."""

import copy

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op import losses
from tests.custom_op import cases

MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, autograph=False, jit_compile=True),
}
SAMPLES = 2


def _relative(got, expected):
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))


def _draws(name):
    """Targets for the sampled Fisher matrix, [examples, samples, ...], as a model would draw."""
    case, random = cases.CASES[name], np.random.default_rng(5)
    shape = (cases.BATCH, SAMPLES, *cases.outputs(name).shape[1:])
    if case.loss == "softmax_cross_entropy":
        return random.integers(0, shape[-1], shape[:-1])
    if case.loss == "sigmoid_cross_entropy":
        return random.integers(0, 2, shape).astype(float)
    return random.normal(size=shape)


def _loss_with_draws(name):
    """The case's loss, whose model draws what `_draws` says for the example of that number."""
    loss = copy.copy(losses.get(cases.CASES[name].loss))
    loss.sample = lambda outputs, seed: tf.gather(_draws(name), seed[1])
    return loss


def _sampled_fisher(name, weighted):
    """The mean of r rᵀ over draws and terms, term by term."""
    case, z, j = cases.CASES[name], cases.outputs(name), cases.jacobian(name)
    shares = cases.shares(name, weighted)
    dense = 0
    for s in range(SAMPLES):
        y = _draws(name)[:, s]
        mass = np.ones(z.size)
        if case.loss == "softmax_cross_entropy":
            y = np.eye(z.shape[-1])[y]
            if case.targets.dtype.kind == "f":
                mass = np.repeat(case.targets.sum(-1).reshape(-1), z.shape[-1])
        # Of the sum, not of the mean.
        r = cases.output_gradient(name, y) * _terms(name)
        for term in np.split(np.arange(z.size), _terms(name)):
            g = j[term].T @ r[term]
            dense = dense + (shares * mass)[term[0]] * np.outer(g, g)
    return dense / SAMPLES / _terms(name)


def _terms(name):
    loss, z = cases.CASES[name].loss, cases.outputs(name)
    if loss == "softmax_cross_entropy":
        return z.size // z.shape[-1]
    return z.shape[0] if loss == "squared_error" else z.size


OPERATORS = {
    "gauss_newton": (custom_op.gauss_newton, {}, cases.gauss_newton),
    "exact": (custom_op.fisher, {}, cases.gauss_newton),
    "sampled": (custom_op.fisher, {"kind": "sampled", "samples": SAMPLES}, _sampled_fisher),
    "empirical": (custom_op.fisher, {"kind": "empirical"}, cases.empirical_fisher),
    "hessian": (custom_op.hessian, {}, cases.hessian),
}


def _operators(name, parameters, weighted):
    case = cases.CASES[name]
    extra = {"weights": cases.WEIGHTS, "mask": cases.MASK} if weighted else {}
    return {
        key: OPERATORS[key][0](
            case.network,
            parameters,
            _loss_with_draws(name) if key == "sampled" else case.loss,
            case.targets,
            **OPERATORS[key][1],
            **extra,
        )
        for key in OPERATORS
    }


def _table():
    weighted = {"mlp_tanh", "mlp_relu", "silu", "gates", "rank_3"}
    for name in cases.CASES:
        yield name, "graph", False
        if name in weighted:
            slow = name in ("silu", "gates")
            yield pytest.param(name, "graph", True, marks=[pytest.mark.slow] if slow else [])
    yield "gates", "eager", True
    yield "mlp_sigmoid", "xla", False
    for name in cases.CASES:
        yield pytest.param(name, "eager", False, marks=pytest.mark.slow)
        yield pytest.param(name, "xla", name in weighted, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "mode", "weighted"), list(_table()))
def test_products_equal_the_dense_matrix(name, mode, weighted):
    case = cases.CASES[name]

    def run(parameters, v):
        found = _operators(name, parameters, weighted)
        gradients = [operator.gradient() for operator in found.values()]
        # Products in a loop; XLA on one case in each default run.
        loop = ("hessian", "sampled") if name == "mlp_sigmoid" and mode != "eager" else ()
        dense = {key: found[key].to_dense() for key in loop}
        return {key: operator @ v for key, operator in found.items()}, gradients, dense

    v = case.random(3)
    products, gradients, dense = MODES[mode](run)(case.tensors(), v)
    for key, product in products.items():
        if key == "hessian":
            expected = cases.hessian_product(name, cases.flat(v), weighted)
        else:
            expected = OPERATORS[key][2](name, weighted) @ cases.flat(v)
        assert _relative(cases.flat(product), expected) < 1e-10, key
    for key, matrix in dense.items():
        assert _relative(matrix.numpy(), OPERATORS[key][2](name, weighted)) < 1e-10, key
    for gradient in gradients:
        assert _relative(cases.flat(gradient), cases.gradient(name, weighted)) < 1e-12


def test_the_hessian_is_not_the_gauss_newton_matrix():
    """So that the table could tell them apart."""
    assert _relative(cases.hessian("mlp_sigmoid"), cases.gauss_newton("mlp_sigmoid")) > 0.1
    h = cases.hessian("gates")
    np.testing.assert_allclose(h, h.T, atol=1e-12)
