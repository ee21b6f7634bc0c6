"""Every step against optax's and the authors' implementations; AMUSE's against its equations."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from tests.mlhf.optimizers.gradient_methods import linear_problem as problem
from tests.mlhf.optimizers.test_orthogonalization import by_singular_values

EXPECTED = json.loads((Path(__file__).parent / "fixtures/reference_steps.json").read_text())
OPTIMIZERS = {
    "muon rms": lambda: mlhf.Muon(0.05, 0.9, nesterov=False, weight_decay=0.1),
    "muon width": lambda: mlhf.Muon(0.05, 0.9, nesterov=False, weight_decay=0.1, length="width"),
    "prodigy": lambda: mlhf.Prodigy(initial_distance=1e-3, weight_decay=0.1, beta_2=0.99),
    "prodigy safeguarded": lambda: mlhf.Prodigy(initial_distance=1e-3, safeguard_warmup=True),
    "prodigy with bias correction": lambda: mlhf.Prodigy(
        initial_distance=1e-3, weight_decay=0.1, bias_correction=True
    ),
    "schedule-free": lambda: mlhf.ScheduleFreeAdamW(
        0.1, weight_decay=0.1, warmup_steps=4, beta_1=0.8, beta_2=0.99
    ),
    "schedule-free of optax": lambda: mlhf.ScheduleFreeAdamW(0.1, beta_2=0.99),
    "soap": lambda: mlhf.SOAP(0.05, weight_decay=0.1, basis_every=3),
}


def network(parameters, inputs):
    return problem.outputs(parameters, inputs, tf.reshape)


def objective(number):
    return mlhf.Objective(network, "squared_error", *problem.batch(number))


def steps_of(optimizer, steps=problem.STEPS):
    """Yields the parameters to evaluate after each step."""
    parameters = {path: tf.constant(w) for path, w in problem.start().items()}
    state = optimizer.init(parameters)
    for number in range(steps):
        parameters, state = optimizer.step(objective(number), parameters, state)[:2]
        yield optimizer.evaluation_parameters(parameters, state)


def compare(found, expected):
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for path, value in theirs.items():
            np.testing.assert_allclose(
                ours[path], value, rtol=1e-5, atol=1e-6, err_msg=f"{path}, step {number}"
            )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_step_is_that_of_the_reference(name):
    expected = EXPECTED["steps"][name]
    assert len(expected) == problem.STEPS >= 10
    compare(steps_of(OPTIMIZERS[name]()), expected)
    moved = [np.max(np.abs(expected[-1][path] - w)) for path, w in problem.start().items()]
    assert min(moved) > 1e-3


def test_muon_with_nesterov_is_that_of_keras():
    """Which takes two axes only, so that the convolution's kernel is left to Adam in both."""
    theirs = mlhf.FirstOrder(
        keras.optimizers.Muon(
            0.05,
            momentum=0.9,
            adam_lr_ratio=1.0,
            rms_rate=None,
            epsilon=1e-12,
            weight_decay=None,
            adam_weight_decay=None,
        )
    )
    ours = mlhf.Muon(0.05, 0.9, excluded=["conv"], length="width", epsilon=1e-12)
    found = zip(steps_of(ours, 6), steps_of(theirs, 6), strict=True)
    for number, (a, b) in enumerate(found):
        for path in a:
            # Keras takes 1 - β₂ᵗ of a β₂ in float32.
            np.testing.assert_allclose(
                a[path], b[path], rtol=3e-5, atol=3e-6, err_msg=f"{path} {number}"
            )


def amuse(rate, mu, decay, warmup, beta, rho, beta_2):
    """The equations of AMUSE's class in NumPy, orthogonalization by singular values."""
    w = problem.start()
    x, z, y, m, v = w, w, w, dict.fromkeys(w, 0.0), dict.fromkeys(w, 0.0)
    for t in range(1, problem.STEPS + 1):
        g = problem.gradient(y, t - 1)
        lr = rate * min(1, t / warmup)
        for path in w:
            if "kernel" in path:
                m[path] = mu * m[path] + (1 - mu) * g[path]
                matrix = m[path].reshape(-1, 3)
                u = 0.2 * np.sqrt(max(matrix.shape)) * by_singular_values(matrix, 5)
            else:
                v[path] = beta_2 * v[path] + (1 - beta_2) * g[path] ** 2
                u = g[path] / (np.sqrt(v[path] / (1 - beta_2**t)) + 1e-8)
            z = {**z, path: z[path] - lr * (u.reshape(w[path].shape) + decay * y[path])}
        x = {path: (1 - 1 / (t + 1)) * x[path] + z[path] / (t + 1) for path in w}
        # The next step's.
        mixed = beta if t + 1 <= warmup else 1 - ((warmup - 1) / t) ** rho * (1 - beta)
        y = {path: (1 - mixed) * z[path] + mixed * x[path] for path in w}
        yield x


def test_amuse_is_its_equations():
    optimizer = mlhf.AMUSE(
        0.1,
        0.8,
        weight_decay=0.1,
        warmup_steps=3,
        interpolation=0.5,
        exponent=0.7,
        beta_2=0.9,
    )
    compare(steps_of(optimizer), list(amuse(0.1, 0.8, 0.1, 3, 0.5, 0.7, 0.9)))
