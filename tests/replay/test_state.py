import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.state import Entry, ReplayState


def build(priorities=(1.0, 2.0, 3.0)):
    return ReplayState(
        serial=4,
        settings={"capacity": 9, "priority": "rank", "alpha": 0.7, "beta_steps": None},
        next_id=100,
        step=7,
        generator=dict(np.random.PCG64(3).state),
        entries={10 + 2 * k: Entry(8 - k, p, 2**32 - 1 - k) for k, p in enumerate(priorities)},
    )


@given(st.lists(st.floats(0, allow_nan=False, allow_infinity=False), max_size=8))
def test_every_bit_comes_back_through_json(priorities):
    state = build(priorities)
    got = ReplayState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    assert got == state
    signs = [(np.float64(e.priority).tobytes()) for e in got.entries.values()]
    assert signs == [np.float64(p).tobytes() for p in priorities]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [10, 12]}, "contradicts itself"),
        ({"ids": [10, 12, 12]}, "ids do not rise"),
        ({"ids": [10, 12, 100]}, "not below its next id"),
        ({"ids": [-1, 12, 14]}, "not below its next id"),
        ({"ids": [0.5, 12, 14]}, "contradicts itself"),
        ({"slots": [1, 2, 1]}, "share a slot"),
        ({"slots": [1, 2]}, "contradicts itself"),
        ({"priorities": ["0x1p0", "nan", "0x1p0"]}, "finite priority"),
        ({"priorities": [1.0, 2.0, 3.0]}, "contradicts itself"),
        ({"checksums": None}, "contradicts itself"),
        ({"generator": {}}, "contradicts itself"),
        ({"generator": dict(np.random.MT19937(0).state)}, "contradicts itself"),
        ({"step": None}, "contradicts itself"),
        ({"settings": []}, "contradicts itself"),
        ({"version": 2}, "version 1, got version 2"),
    ],
)
def test_a_changed_state_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ReplayState.from_json({**build().to_json(), **change})


@pytest.mark.parametrize("state", [{}, None, "state", {"ids": []}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match=r"what PrioritizedReplay.state\(\) returned"):
        ReplayState.from_json(state)
