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
    settings = {"damping": DAMPING, "cg_iterations": 12, "damping_type": "regular"}
    optimizer = mlhf.MartensHessianFree(
        **settings, preconditioner=mlhf.NystromPreconditioner(26), curvature_share=0.5
    )
    fitted = _step(optimizer)
    # The loss after one step, beside that of as many iterations without one.
    plain = _step(mlhf.MartensHessianFree(**settings, curvature_share=0.5))
    losses = [objective().data_loss(step.parameters) for step in (fitted, plain)]
    assert losses[0] <= losses[1] + 1e-12
    # The second half is other data, so a step on the first half is not the whole's minimum.
    assert losses[0] < fitted.metrics["loss"]


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="^Expected a preconditioner: None, .* got 'jacobi'"):
        mlhf.HessianFree(preconditioner="jacobi")
    with pytest.raises(TypeError, match="^Expected a preconditioner that takes"):
        mlhf.MartensHessianFree(preconditioner=lambda v: v)
    with pytest.raises(TypeError, match="to return a function"):
        _step(mlhf.HessianFree(preconditioner=lambda objective, parameters, damping: 1.0))
    with pytest.raises(ValueError, match="^Expected rank"):
        mlhf.NystromPreconditioner(0)
