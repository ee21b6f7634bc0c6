"""What every optimizer of the project keeps to, in one test; on a quadratic."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.runs.checkpoints import Checkpoints


def quadratic(parameters, inputs):
    dense = parameters["dense"]
    return inputs @ dense["kernel"] + dense["bias"]


def start(dtype):
    return {"dense": {"kernel": tf.zeros([4, 2], dtype), "bias": tf.zeros([2], dtype)}}


def batch(dtype, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(16, 4)) * [0.3, 1, 1, 2]
    return tf.constant(x, dtype), tf.constant(x @ random.normal(size=(4, 2)) + 1, dtype)


def objective(dtype, seed=0):
    return mlhf.Objective(quadratic, "squared_error", *batch(dtype, seed))


def train(optimizer, dtype, steps):
    """Returns parameters and state after so many steps, and the losses before each."""
    parameters = start(dtype)
    state = optimizer.init(parameters)
    losses = []
    for _ in range(steps):
        parameters, state, model_state, metrics = optimizer.step(
            objective(dtype), parameters, state
        )
        losses.append(float(metrics["loss"]))
        assert model_state is None
    return parameters, state, losses


def check(make, folder, dtype=tf.float32, steps=20, factor=0.2, anew=True):
    """Checks an optimizer.

    Args:
      make: A function that makes it.
      folder: For a checkpoint.
      dtype: Of the parameters.
      steps: How many.
      factor: What is left of the loss after them, at most.
      anew: Whether a new optimizer goes on from the checkpoint, which compiles once more, or the
        same one.
    """
    optimizer = make()
    parameters, state, losses = train(optimizer, dtype, steps)
    assert losses[-1] < factor * losses[0]
    _keeps_dtypes(optimizer, parameters, state, dtype)
    _goes_on_from_a_file(make() if anew else optimizer, optimizer, parameters, state, folder)
    _refuses(make())


def _keeps_dtypes(optimizer, parameters, state, dtype):
    before = start(dtype)
    tf.nest.assert_same_structure(parameters, before)
    assert all(tf.is_tensor(leaf) for leaf in tf.nest.flatten(state))
    pairs = [(parameters, before), (state, optimizer.init(before))]
    for after, initial in pairs:
        for new, old in zip(tf.nest.flatten(after), tf.nest.flatten(initial), strict=True):
            assert (new.dtype, new.shape) == (old.dtype, old.shape)


def _goes_on_from_a_file(other, optimizer, parameters, state, folder):
    dtype = parameters["dense"]["bias"].dtype
    kept = tf.nest.flatten((parameters, state))
    Checkpoints(folder).write(1, {str(number): leaf for number, leaf in enumerate(kept)})
    _, saved = Checkpoints(folder).read()
    read = [tf.constant(saved[str(n)], leaf.dtype) for n, leaf in enumerate(kept)]
    same, again = tf.nest.pack_sequence_as((parameters, state), read)
    # As whoever continues a run does.
    other.init(start(dtype))
    first = optimizer.step(objective(dtype, 1), parameters, state)
    second = other.step(objective(dtype, 1), same, again)
    for a, b in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_array_equal(a, b)


def _refuses(optimizer):
    with pytest.raises(ValueError, match="^Expected floating parameters, got int32"):
        optimizer.init(start(tf.int32))
    with pytest.raises(ValueError, match="^Expected parameters, at least one, got {}"):
        optimizer.init({})
    mixed = {"dense": {**start(tf.float32)["dense"], "bias": tf.zeros([2], tf.float64)}}
    with pytest.raises(ValueError, match="^Expected parameters of one dtype, got .*float64"):
        optimizer.init(mixed)
