"""Names and checks of structures of tensors."""

import collections

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op import structures

Pair = collections.namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    ("structure", "names"),
    [
        (1.0, ["(the tensor itself)"]),
        ([1.0, (2.0,)], ["0", "1/0"]),
        ({"b": 1.0, "a": [2.0, 3.0]}, ["a/0", "a/1", "b"]),
        (collections.OrderedDict(b=1.0, a=2.0), ["a", "b"]),
        (Pair(1.0, {"x": 2.0}), ["left", "right/x"]),
        ({2: 1.0, 10: 2.0}, ["2", "10"]),
    ],
)
def test_leaf_names_in_the_order_of_flatten(structure, names):
    assert structures.leaf_names(structure) == names
    # The names, put where they belong, flatten to themselves.
    packed = tf.nest.pack_sequence_as(structure, names)
    assert tf.nest.flatten(packed) == names


def test_names_of_tracked_containers():
    module = tf.Module()
    module.weights = {"b": [tf.Variable(1.0)], "a": tf.Variable(2.0)}
    assert structures.leaf_names(module.weights) == ["a", "b/0"]
    flat = structures.flatten_floating(module.weights, "weights")
    assert [float(leaf) for leaf in flat] == [2.0, 1.0]
    plain = {"b": [tf.constant(1.0)], "a": tf.constant(2.0)}
    assert len(structures.flatten_like(plain, module.weights, flat, "weights")) == 2


def test_flatten_floating_refuses_what_is_not_floating():
    with pytest.raises(TypeError, match="Expected floating weights, got int32 at 'b/0'"):
        structures.flatten_floating({"a": 1.0, "b": [np.int32(2)]}, "weights")
    with pytest.raises(TypeError, match="got complex64"):
        structures.flatten_floating(tf.constant(1j, tf.complex64), "weights")
    with pytest.raises(TypeError, match="Expected weights of dense tensors, got None at 'b': let"):
        structures.flatten_floating({"a": 1.0, "b": None}, "weights")
    with pytest.raises(TypeError, match="got a RaggedTensor at 'b': make it dense first"):
        structures.flatten_floating({"b": tf.ragged.constant([[1.0], []])}, "weights")
    with pytest.raises(ValueError, match="at least one tensor, got {}"):
        structures.flatten_floating({}, "weights")


def test_flatten_like_converts_numbers_and_arrays():
    leaves = [tf.zeros([2]), tf.zeros([])]
    flat = structures.flatten_like([np.ones(2), 3.0], [0, 0], leaves, "tangents")
    assert [leaf.dtype for leaf in flat] == [tf.float32, tf.float32]
    assert float(flat[1]) == 3.0


def test_flatten_like_takes_slices():
    slices = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([2]), tf.constant([3, 2]))
    (flat,) = structures.flatten_like(slices, 0, [tf.zeros([3, 2])], "tangents")
    np.testing.assert_array_equal(flat, [[0, 0], [0, 0], [1, 1]])


def test_a_list_is_not_a_tuple():
    leaves = [tf.zeros([2])]
    with pytest.raises(ValueError, match=r"structure \[\(2,\)\], got \(\(2,\),\)"):
        structures.flatten_like((tf.zeros([2]),), leaves, leaves, "tangents")


def test_operators_of_functions_that_return_no_tensor_say_so():
    w, labels = tf.ones([3]), tf.zeros([2], tf.int32)
    for returned, word in ((None, "None"), (tf.ragged.constant([[1.0], []]), "a RaggedTensor")):

        def function(w, returned=returned):
            return returned

        for make in (
            lambda f: custom_op.linearize(f, w),
            lambda f: custom_op.gauss_newton(f, w, "softmax_cross_entropy", labels),
            lambda f: custom_op.hessian(f, w, "softmax_cross_entropy", labels),
        ):
            with pytest.raises(TypeError, match=f"Expected outputs of dense tensors, got {word}"):
                make(function)
