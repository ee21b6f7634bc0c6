"""Flat vectors: what lies where, and what is filled up."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf.layout import Layout

PARAMETERS = {
    "conv": {"bias": tf.constant([1.0, 2]), "kernel": tf.reshape(tf.range(3.0, 9), [1, 1, 2, 3])},
    "dense": [tf.constant(9.0), tf.zeros([0, 4]), tf.reshape(tf.range(10.0, 15), [5, 1])],
}
KINDS = {"dense/0": "b", "dense/1": "a", "dense/2": "a"}


def test_vector_by_hand():
    layout = Layout(PARAMETERS, KINDS, block=4)
    assert layout.kinds == ["a", "b", "conv_bias", "conv_kernel"]
    assert layout.kind_of_block.tolist() == [0, 0, 1, 2, 3, 3]
    assert (layout.parameters, layout.blocks, layout.block, layout.size) == (14, 6, 4, 24)
    vector = layout.flatten(PARAMETERS)
    blocks = [
        [10, 11, 12, 13],
        [14, 0, 0, 0],
        [9, 0, 0, 0],
        [1, 2, 0, 0],
        [3, 4, 5, 6],
        [7, 8, 0, 0],
    ]
    np.testing.assert_array_equal(layout.to_blocks(vector), blocks)
    np.testing.assert_array_equal(layout.mask(), np.ravel(blocks) > 0)


def test_there_and_back():
    layout = Layout(PARAMETERS, KINDS)
    back = layout.unflatten(layout.flatten(PARAMETERS))
    tf.nest.assert_same_structure(back, PARAMETERS)
    for a, b in zip(tf.nest.flatten(back), tf.nest.flatten(PARAMETERS), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    # Padding is dropped, and comes back as zeros.
    ones = layout.flatten(layout.unflatten(tf.ones([layout.size])))
    np.testing.assert_array_equal(ones, layout.mask())


@pytest.mark.parametrize("unit", [1.0, 1e-25, 1e25])
def test_scales_are_those_of_each_variable(unit):
    layout = Layout(PARAMETERS, KINDS, block=4)
    parameters = tf.nest.map_structure(lambda leaf: unit * leaf, PARAMETERS)
    parameters["dense"][0] = tf.constant(0.0)
    factors = layout.unflatten(layout.inverse_root_mean_square(layout.flatten(parameters)))
    for factor, leaf in zip(tf.nest.flatten(factors), tf.nest.flatten(parameters), strict=True):
        if np.any(leaf):
            right = unit / np.sqrt(np.mean((leaf.numpy().astype(float)) ** 2))
            np.testing.assert_allclose(factor * unit, right, rtol=1e-5)
    assert float(factors["dense"][0]) == 1.0


def test_arrays_and_a_single_tensor():
    layout = Layout(np.arange(3.0), "any")
    assert layout.dtype == tf.float64
    np.testing.assert_array_equal(layout.unflatten(layout.flatten(np.arange(3.0))), [0, 1, 2])


@pytest.mark.parametrize(("count", "block"), [(1, 64), (1024, 64), (1025, 128), (10**6, 2048)])
def test_size_of_blocks(count, block):
    layout = Layout(tf.zeros([count]), "any")
    assert layout.block == block
    assert layout.size >= count


def test_large_networks_have_a_multiple_of_eight_blocks():
    # 64 blocks and one more of another kind.
    parameters = [tf.zeros([64 * 4]), tf.zeros([1])]
    layout = Layout(parameters, ["a", "b"], block=4)
    assert layout.blocks == 72
    assert layout.kind_of_block.tolist() == 64 * [0] + 8 * [1]
    assert int(tf.reduce_sum(layout.mask())) == 257
    assert Layout(parameters[0], "a", block=4).blocks == 64
    assert Layout(tf.zeros([63 * 4]), "a", block=4).blocks == 63


def test_bad_structures():
    with pytest.raises(ValueError, match="one dtype, got .*float32.*float64"):
        Layout([tf.zeros(2), tf.zeros(2, tf.float64)], "any")
    with pytest.raises(ValueError, match=r"static shape, got \(None, 3\)"):
        Layout([tf.TensorSpec([None, 3])], "any")
    with pytest.raises(ValueError, match="floating.*int32"):
        Layout([tf.zeros(2, tf.int32)], "any")
    with pytest.raises(ValueError, match="at least one"):
        Layout({}, "any")


def test_signature_tells_which_leaf_is_of_which_kind():
    parameters = {"a": tf.zeros([3]), "b": tf.zeros([3])}
    one = Layout(parameters, {"a": "u", "b": "v"})
    other = Layout(parameters, {"a": "v", "b": "u"})
    assert one.kinds == other.kinds and one.size == other.size
    assert one.signature != other.signature
    assert one.signature == Layout(parameters, {"a": "u", "b": "v"}).signature
