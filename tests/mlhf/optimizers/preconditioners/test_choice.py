"""Preconditioners of the Hessian-free optimizers: fewer iterations, the same solution."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from tests.contract import quadratic

_random = np.random.default_rng(0)
# Badly scaled inputs, so that conjugate gradients take long.
X = tf.constant(_random.normal(size=(60, 12)) * np.logspace(-2, 1.5, 12))
Y = tf.constant(_random.normal(size=(60, 2)))
DAMPING = 1e-4


def start():
    return {"dense": {"bias": tf.zeros([2], tf.float64), "kernel": tf.zeros([12, 2], tf.float64)}}


def objective():
    return mlhf.Objective(quadratic, "squared_error", X, Y)


def by_diagonal(objective, parameters, damping):
    """The inverse diagonal of G + λ I, the user's own."""
    squares = tf.reduce_mean(tf.square(objective.inputs), 0)[:, None]
    diagonal = {"dense": {"bias": 1 + damping, "kernel": squares + damping}}
    return lambda v: tf.nest.map_structure(
        lambda leaf, d: leaf / d, v, tf.nest.map_structure(tf.convert_to_tensor, diagonal)
    )


PRECONDITIONERS = {"nystrom": mlhf.NystromPreconditioner(26), "own": by_diagonal}


def _step(optimizer):
    return optimizer.step(objective(), start(), optimizer.init(start()))


def _flat(step):
    return np.concatenate([np.reshape(leaf, -1) for leaf in tf.nest.flatten(step.parameters)])


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_hessian_free(name):
    settings = {"damping": DAMPING, "cg_iterations": 100, "cg_tolerance": 1e-10, "x_use": "zero"}
    plain = _step(mlhf.HessianFree(**settings))
    fewer = _step(mlhf.HessianFree(**settings, preconditioner=PRECONDITIONERS[name]))
    np.testing.assert_allclose(_flat(fewer), _flat(plain), rtol=1e-5, atol=1e-6)
    most = plain.metrics["cg_iterations"] // 2
    assert fewer.metrics["cg_iterations"] <= (4 if name == "nystrom" else most) <= most


def test_hessian_free_of_martens():
    settings = {"damping": DAMPING, "cg_iterations": 4, "damping_type": "regular"}
    fitted, plain = (
        _step(mlhf.MartensHessianFree(**settings, preconditioner=preconditioner))
        for preconditioner in (mlhf.NystromPreconditioner(26), None)
    )
    # Four iterations solve the system with it, and not without.
    reference = _step(mlhf.MartensHessianFree(**{**settings, "cg_iterations": 200}))
    np.testing.assert_allclose(_flat(fitted), _flat(reference), atol=1e-3)
    assert objective().data_loss(fitted.parameters) < objective().data_loss(plain.parameters)


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="^Expected a preconditioner: None, .* got 'jacobi'"):
        mlhf.HessianFree(preconditioner="jacobi")
    with pytest.raises(TypeError, match="^Expected a preconditioner that takes"):
        mlhf.MartensHessianFree(preconditioner=lambda v: v)
    with pytest.raises(TypeError, match="to return a function"):
        _step(mlhf.HessianFree(preconditioner=lambda objective, parameters, damping: 1.0))
    with pytest.raises(ValueError, match="^Expected rank"):
        mlhf.NystromPreconditioner(0)
