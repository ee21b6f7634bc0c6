import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.priorities.sum_tree import SumTree


def build(values):
    tree = SumTree(len(values))
    for leaf, value in enumerate(values):
        tree.set(leaf, value)
    return tree


def test_the_tree_of_the_docstring():
    tree = build([3, 1, 4, 1, 5])
    assert tree.total == 14
    assert len(tree) == 5
    assert tree.values.tolist() == [3, 1, 4, 1, 5]
    mass = [0, 2.999, 3, 3.999, 4, 6.5, 7.999, 8, 8.999, 9, 13.999]
    assert tree.find(mass).tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 200])
def test_unit_values_of_any_size(size):
    tree = build([1.0] * size)
    assert tree.total == size
    assert tree.find(np.arange(size) + 0.5).tolist() == list(range(size))


def test_a_value_can_be_changed_back_and_forth():
    tree = build([1.0, 2.0, 3.0])
    tree.set(1, 0.0)
    assert tree.total == 4
    assert tree.find([0.5, 1.0]).tolist() == [0, 2]
    tree.set(1, 2.0)
    assert tree.find([1.0]).tolist() == [1]


def test_equal_values_are_different_leaves():
    tree = build([2.0, 2.0, 2.0])
    assert tree.find([0, 1.9, 2, 3.9, 4, 5.9]).tolist() == [0, 0, 1, 1, 2, 2]


def test_no_masses_find_nothing():
    assert build([1.0, 2.0]).find([]).tolist() == []


values = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.floats(0, 1e300)), min_size=1, max_size=20
)


@given(values, st.floats(0, 1, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_find_agrees_with_the_cumulative_sum_and_never_returns_a_zero(values, point):
    tree = build(values)
    total = float(np.sum(values))
    assert tree.total == pytest.approx(total)
    mass = point * tree.total
    if not mass < tree.total:
        return
    (leaf,) = tree.find([mass])
    assert values[leaf] > 0
    ends = np.cumsum(values)
    assert (ends[leaf] - values[leaf]) <= mass + 1e-12 * total
    assert mass <= ends[leaf] + 1e-12 * total


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1e10)), max_size=30))
@settings(max_examples=50, deadline=None)
def test_a_tree_depends_on_its_values_and_not_on_their_history(changes):
    tree = SumTree(7)
    for leaf, value in changes:
        tree.set(leaf, value)
    assert tree._nodes.tobytes() == build(tree.values.tolist())._nodes.tobytes()


def test_the_end_of_the_last_share_is_never_an_empty_leaf():
    tree = build([0.1, 0.2, 0.3, 0.0, 0.0])
    assert tree.find([np.nextafter(tree.total, 0)]).tolist() == [2]


def test_values_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        build([1.0]).values[0] = 2


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_false_values_are_refused(value):
    with pytest.raises(ValueError, match="finite value that is not negative"):
        SumTree(2).set(0, value)


@pytest.mark.parametrize("leaf", [-1, 3])
def test_false_leaves_are_refused(leaf):
    with pytest.raises(IndexError, match="a leaf from 0 to 2"):
        SumTree(3).set(leaf, 1.0)


@pytest.mark.parametrize("mass", [-0.1, 3.0, np.nan])
def test_masses_outside_are_refused(mass):
    with pytest.raises(ValueError, match=r"masses in \[0, 3.0\)"):
        build([1.0, 2.0]).find([mass])


def test_an_empty_tree():
    with pytest.raises(ValueError, match="at least 1 leaf"):
        SumTree(0)
    with pytest.raises(ValueError, match="masses in"):
        SumTree(3).find([0.0])
