"""Both kinds of distribution: closed forms, hand-computed cases, and one contract."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.priorities.proportional import Proportional
from replay.priorities.rank_based import RankBased

KINDS = {
    "rank": lambda capacity, alpha=0.7: RankBased(capacity, alpha),
    "proportional": lambda capacity, alpha=0.7: Proportional(capacity, alpha, eps=1e-6),
}
both = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def fill(distribution, priorities):
    for slot, priority in enumerate(priorities):
        distribution.set(slot, slot, priority)
    return np.arange(len(priorities))


def test_rank_based_by_hand():
    distribution = RankBased(5, alpha=1.0)
    slots = fill(distribution, [3.0, 9.0, 3.0, 0.0])  # the two 3s: the older first
    shares = np.array([1 / 2, 1, 1 / 3, 1 / 4]) / (1 + 1 / 2 + 1 / 3 + 1 / 4)
    np.testing.assert_allclose(distribution.probabilities(slots), shares, rtol=1e-15)
    assert distribution.smallest_probability() == pytest.approx(shares[3], rel=1e-15)
    # Cumulative by rank: 12/25 (slot 1), 18/25 (slot 0), 22/25 (slot 2), 1 (slot 3).
    points = np.array([0, 0.479, 0.481, 0.719, 0.721, 0.879, 0.881, 1 - 2**-53])
    assert distribution.draw(points).tolist() == [1, 1, 0, 0, 2, 2, 3, 3]


def test_age_goes_by_id_and_not_by_slot():
    distribution = RankBased(3, alpha=1.0)
    for slot, snapshot_id in [(0, 12), (1, 10), (2, 11)]:
        distribution.set(slot, snapshot_id, 5.0)
    assert distribution.draw(np.array([0.0, 0.6, 0.99])).tolist() == [1, 2, 0]


def test_proportional_by_hand():
    distribution = Proportional(5, alpha=0.5, eps=1.0)
    slots = fill(distribution, [3.0, 8.0, 0.0, 15.0])
    np.testing.assert_allclose(distribution.probabilities(slots), [0.2, 0.3, 0.1, 0.4], rtol=1e-15)
    assert distribution.smallest_probability() == pytest.approx(0.1, rel=1e-15)
    points = np.array([0, 0.199, 0.201, 0.499, 0.501, 0.599, 0.601, 1 - 2**-53])
    assert distribution.draw(points).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


priorities = st.lists(st.floats(0, 1e6), min_size=1, max_size=12)


@given(priorities, st.floats(0, 3))
@settings(max_examples=100, deadline=None)
def test_rank_based_in_closed_form(priorities, alpha):
    distribution = RankBased(12, alpha)
    slots = fill(distribution, priorities)
    ranked = sorted(range(len(priorities)), key=lambda slot: (-priorities[slot], slot))
    share = [(ranked.index(slot) + 1) ** -alpha for slot in slots]
    np.testing.assert_allclose(
        distribution.probabilities(slots), np.array(share) / sum(share), rtol=1e-12
    )


@given(priorities, st.floats(0, 3))
@settings(max_examples=100, deadline=None)
def test_proportional_in_closed_form(priorities, alpha):
    distribution = Proportional(12, alpha, eps=1e-6)
    slots = fill(distribution, priorities)
    share = [(priority + 1e-6) ** alpha for priority in priorities]
    np.testing.assert_allclose(
        distribution.probabilities(slots), np.array(share) / sum(share), rtol=1e-12
    )


@both
@given(priorities)
@settings(max_examples=50, deadline=None)
def test_a_fine_grid_of_points_meets_the_probabilities(make, priorities):
    distribution = make(12)
    slots = fill(distribution, priorities)
    drawn = distribution.draw((np.arange(4000) + 0.5) / 4000)
    shares = np.bincount(drawn, minlength=len(slots)) / 4000
    np.testing.assert_allclose(shares, distribution.probabilities(slots), atol=1 / 4000)


@both
def test_alpha_0_is_uniform(make):
    distribution = make(4, alpha=0.0)
    slots = fill(distribution, [5.0, 0.0, 1e9])
    np.testing.assert_allclose(distribution.probabilities(slots), 1 / 3, rtol=1e-15)


@both
def test_a_removed_slot_is_never_drawn_and_can_be_filled_again(make):
    distribution = make(3)
    fill(distribution, [1.0, 2.0, 3.0])
    distribution.remove(2)
    points = np.linspace(0, 1, 50, endpoint=False)
    assert set(distribution.draw(points).tolist()) == {0, 1}
    distribution.set(2, 3, 9.0)
    assert set(distribution.draw(points).tolist()) == {0, 1, 2}
    assert distribution.probabilities(np.arange(3)).sum() == pytest.approx(1)


@both
def test_one_slot(make):
    distribution = make(1)
    distribution.set(0, 0, 0.0)
    assert distribution.draw(np.array([0.0, 1 - 2**-53])).tolist() == [0, 0]
    assert distribution.smallest_probability() == 1


@both
@pytest.mark.parametrize("priority", [np.nan, np.inf, -np.inf, -1e-300])
def test_what_is_no_priority_is_refused(make, priority):
    with pytest.raises(ValueError, match="expected a finite priority that is not negative"):
        make(3).check(priority)


def test_the_ranks_do_not_feel_the_scale():
    small, large = RankBased(3, 0.7), RankBased(3, 0.7)
    slots = fill(small, [1.0, 2.0, 3.0])
    fill(large, [1.0, 1e300, 1.7e308])
    assert small.probabilities(slots).tolist() == large.probabilities(slots).tolist()


def test_what_overflows_or_vanishes_is_refused_at_once():
    with pytest.raises(ValueError, match="overflows; scale"):
        Proportional(200, alpha=1.0, eps=1e-6).check(1e308)
    with pytest.raises(ValueError, match="overflows; scale"):
        Proportional(200, alpha=2.0, eps=1e-6).check(1e200)
    with pytest.raises(ValueError, match="to the power alpha=60.0 is 0"):
        Proportional(200, alpha=60.0, eps=1e-6)
    with pytest.raises(ValueError, match="finite eps > 0"):
        Proportional(200, alpha=0.7, eps=0.0)
    with pytest.raises(ValueError, match="rank 200 the probability 0"):
        RankBased(200, alpha=200.0)
