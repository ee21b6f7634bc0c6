"""A linear network whose gradients NumPy computes too, for steps of reference implementations."""

import numpy as np

SHAPES = {"conv/kernel": (2, 2, 2, 3), "dense/bias": (3,), "dense/kernel": (4, 3)}
BATCHES, EXAMPLES, STEPS = 3, 10, 12


def start():
    """Returns the first parameters, by path."""
    random = np.random.default_rng(1)
    return {path: 0.5 * random.normal(size=shape) for path, shape in SHAPES.items()}


def batch(number):
    """Returns inputs, of which the first 8 are the convolution's, and targets."""
    random = np.random.default_rng(10 + number % BATCHES)
    return random.normal(size=(EXAMPLES, 12)), random.normal(size=(EXAMPLES, 3))


def outputs(parameters, inputs, reshape=np.reshape):
    """Returns the network's outputs, [examples, 3]."""
    convolution = inputs[:, :8] @ reshape(parameters["conv/kernel"], (8, 3))
    return convolution + inputs[:, 8:] @ parameters["dense/kernel"] + parameters["dense/bias"]


def gradient(parameters, number):
    """Returns the gradient of ½‖z - y‖² / examples on a batch, by path."""
    inputs, targets = batch(number)
    error = (outputs(parameters, inputs) - targets) / EXAMPLES
    product = inputs.T @ error
    return {
        "conv/kernel": product[:8].reshape(SHAPES["conv/kernel"]),
        "dense/bias": error.sum(0),
        "dense/kernel": product[8:],
    }
