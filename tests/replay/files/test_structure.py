import collections
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from replay.files.structure import flatten, unflatten

plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec="utf-8"))
)
arrays = hnp.arrays(
    dtype=st.sampled_from(
        ["f4", "f8", ">f8", "f2", "i1", "i4", "i8", "u1", "?", "c8", "U3", "M8[s]"]
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
structures = st.recursive(
    st.one_of(plain, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(structures)
@settings(max_examples=80, deadline=None)
def test_any_structure_comes_back_through_json(assert_same, structure):
    description, leaves = flatten(structure)
    text = json.dumps(description, allow_nan=False)
    assert_same(unflatten(json.loads(text), leaves), structure)


def test_arrays_are_numbered_in_order():
    a, b = np.zeros(1), np.ones(2)
    description, leaves = flatten({"x": [a, 3], "y": (b, 0.5)})
    assert leaves[0] is a and leaves[1] is b
    assert description == {
        "dict": [
            ["x", {"list": [{"array": 0}, {"value": 3}]}],
            ["y", {"tuple": [{"array": 1}, {"float": "0x1.0000000000000p-1"}]}],
        ]
    }


def test_special_containers_and_scalars_become_ordinary_ones(assert_same):
    Point = collections.namedtuple("Point", "x y")
    ordered = collections.OrderedDict(b=Point(np.float64(1.5), math.inf), a=[np.bool_(True)])
    got = unflatten(*flatten(ordered))
    assert type(got) is dict and type(got["b"]) is tuple
    assert_same(got, {"b": (np.array(1.5), math.inf), "a": [np.array(True)]})


def test_what_converts_itself_is_an_array(assert_same):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3, dtype=np.float32)

    assert_same(unflatten(*flatten([Tensor()])), [np.arange(3, dtype=np.float32)])


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"w": [np.array([None, 1])]}, r"structure\['w'\]\[0\]: dtype object .* Convert"),
        (np.zeros(2, dtype=[("a", "f4"), ("b", object)]), "bit for bit"),
        ([{1, 2}], r"structure\[0\]: expected an array.*got set"),
        (b"bytes", "got bytes"),
        ({(1, 2): 3}, r"keys of type str or int, got \(1, 2\)"),
        ({True: 3}, "got True of type bool"),
        (np.ma.masked_array([1, 2], [True, False]), "lose its mask"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_place(structure, message):
    with pytest.raises(TypeError, match=message):
        flatten(structure)


def test_a_dtype_of_another_package_is_refused():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(TypeError, match="bfloat16 cannot be stored bit for bit"):
        flatten(np.zeros(2, dtype=ml_dtypes.bfloat16))


@pytest.mark.parametrize("description", [None, 3, {}, {"set": []}, {"list": [], "dict": []}])
def test_a_false_description_is_refused(description):
    with pytest.raises(ValueError, match="expected the description of a structure"):
        unflatten(description, [])
