"""States of files as leaves: those of other optimizers and networks are refused by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.optimizers.saved_state import from_leaves, to_leaves
from tests.contract import start
from tests.mlhf.meta_optimizer.test_portable_state import as_file


def test_a_state_of_leaves_comes_back_and_others_are_refused():
    like = mlhf.HessianFree().init(start(tf.float64))
    saved = as_file(to_leaves(like))
    assert tf.nest.flatten(from_leaves(saved, like, finite=True))[1] == 1
    with pytest.raises(ValueError, match="solution of the shape .* in float64, found int64"):
        from_leaves({"leaves": [saved["leaves"][0].astype(int), 1.0]}, like)
    with pytest.raises(ValueError, match="2 arrays.*found one of 1"):
        from_leaves({"leaves": [np.zeros(64)]}, like)
    with pytest.raises(ValueError, match="finite numbers in damping"):
        from_leaves({"leaves": [saved["leaves"][0], np.float64(np.nan)]}, like, finite=True)
    with pytest.raises(ValueError, match=r"found one of another optimizer, with \['lstm'\]"):
        from_leaves({"lstm": {}}, like)


def test_a_count_of_steps_is_there_where_a_rate_is_scheduled():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    plain = mlhf.HessianFree().init(start(tf.float64))
    counted = mlhf.HessianFree(schedule).init(start(tf.float64))
    assert plain.step == () and int(counted.step) == 0
    assert int(from_leaves(as_file(to_leaves(plain)), counted).step) == 0
    saved = as_file(to_leaves(counted._replace(step=tf.constant(7))))
    assert int(from_leaves(saved, counted).step) == 7
    assert from_leaves(saved, plain).step == ()
