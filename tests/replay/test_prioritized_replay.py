"""What a replay does whether it keeps its snapshots in memory or in a directory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import replay as package
from replay import PrioritizedReplay

# The 99.9% quantile of chi-square with 9 degrees of freedom.
CHI_SQUARE_9 = 27.88
PRIORITIES = np.array([0.3, 7.0, 1.0, 0.01, 2.0, 30.0, 0.5, 4.0, 0.1, 12.0])


@pytest.fixture(params=["memory", "directory"])
def make(request, tmp_path):
    opened = []

    def build(capacity, **settings):
        if request.param == "directory":
            settings["directory"] = tmp_path / f"replay-{len(opened)}"
        opened.append(PrioritizedReplay(capacity, **settings))
        return opened[-1]

    yield build
    for replay in opened:
        replay.close()


def fill(replay, priorities):
    return [replay.add(np.array(k), priority) for k, priority in enumerate(priorities)]


def chi_square(counts, probabilities):
    expected = counts.sum() * probabilities
    return np.sum((counts - expected) ** 2 / expected)


@pytest.mark.parametrize("kind", ["rank", "proportional"])
def test_frequencies_are_those_of_the_paper(kind):
    replay = PrioritizedReplay(10, priority=kind, seed=1)
    fill(replay, PRIORITIES)
    if kind == "rank":
        ranks = 1 + np.argsort(np.argsort(-PRIORITIES))
        shares = ranks**-0.7
    else:
        shares = (PRIORITIES + 1e-6) ** 0.7
    shares /= shares.sum()
    np.testing.assert_allclose(replay.probabilities, shares, rtol=1e-14)
    drawn = np.array([replay.sample().ids[0] for _ in range(8000)])
    counts = np.bincount(drawn, minlength=10)
    assert chi_square(counts, shares) < CHI_SQUARE_9
    # Uniform over ranks, as in the paper's code, priorities would have no effect at all.
    assert chi_square(counts, np.full(10, 0.1)) > 50 * CHI_SQUARE_9


@pytest.mark.parametrize("kind", ["rank", "proportional"])
def test_a_batch_has_the_expected_counts_with_less_variance(kind):
    replay = PrioritizedReplay(10, priority=kind, seed=2)
    fill(replay, PRIORITIES)
    counts = np.zeros(10)
    for _ in range(1000):
        sample = replay.sample(batch_size=7)
        counts += np.bincount(sample.ids, minlength=10)
    assert chi_square(counts, replay.probabilities) < CHI_SQUARE_9


@given(
    capacity=st.integers(1, 7),
    kind=st.sampled_from(["rank", "proportional"]),
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.one_of(st.none(), st.floats(0, 1e3))),
            st.tuples(st.just("update"), st.integers(0, 9), st.floats(0, 1e3)),
            st.tuples(st.just("drop"), st.integers(0, 9)),
            st.tuples(st.just("sample"), st.integers(1, 9)),
        ),
        max_size=25,
    ),
)
@settings(max_examples=100, deadline=None)
def test_against_a_list(capacity, kind, actions):
    """Any sequence of calls, compared with a list of [id, priority] and the textbook formula."""
    replay = PrioritizedReplay(capacity, priority=kind, seed=0)
    model, count = [], 0
    for action, *arguments in actions:
        if action == "add":
            (priority,) = arguments
            assert replay.add({"id": np.array(count)}, priority) == count
            if priority is None:
                priority = max((p for _, p in model), default=1.0)
            model = [*model, [count, priority]][-capacity:]
            count += 1
        elif action == "update":
            number, priority = arguments
            if number < count:
                there = [pair for pair in model if pair[0] == number]
                assert replay.update([number], [priority]).tolist() == [bool(there)]
                for pair in there:
                    pair[1] = priority
        elif action == "drop":
            assert replay.drop(arguments[0]) == any(n == arguments[0] for n, _ in model)
            model = [pair for pair in model if pair[0] != arguments[0]]
        elif model:
            sample = replay.sample(arguments[0])
            assert [int(s["id"]) for s in sample.snapshots] == sample.ids.tolist()
            smallest = replay.probabilities.min()
            np.testing.assert_allclose(sample.weights, (smallest / sample.probabilities) ** 0.5)
        assert len(replay) == len(model)
        assert replay.ids.tolist() == [number for number, _ in model]
        assert replay.priorities.tolist() == [priority for _, priority in model]
    if kind == "rank":
        order = sorted(model, key=lambda pair: (-pair[1], pair[0]))
        shares = [(order.index(pair) + 1) ** -0.7 for pair in model]
    else:
        shares = [(priority + 1e-6) ** 0.7 for _, priority in model]
    np.testing.assert_allclose(replay.probabilities, np.array(shares) / np.sum(shares), rtol=1e-12)


def test_a_new_snapshot_gets_the_largest_priority_present(make):
    replay = make(2)
    assert replay.add(np.array(0)) == 0
    assert replay.priorities.tolist() == [1]
    replay.update(0, 0.25)
    replay.add(np.array(1))
    assert replay.priorities.tolist() == [0.25, 0.25]
    replay.update([0, 1], [8.0, 2.0])
    replay.add(np.array(2))  # snapshot 0, which it evicts, is present till then
    assert replay.ids.tolist() == [1, 2]
    assert replay.priorities.tolist() == [2, 8]


def test_capacity_1(make):
    replay = make(1, seed=0)
    for number in range(3):
        assert replay.add(np.array(number)) == number
        sample = replay.sample(batch_size=2)
        assert sample.ids.tolist() == [number, number]
        assert sample.probabilities.tolist() == sample.weights.tolist() == [1, 1]
        assert [int(snapshot) for snapshot in sample.snapshots] == [number, number]


def test_the_oldest_is_overwritten_whatever_its_priority(make):
    replay = make(3)
    fill(replay, [9.0, 1.0, 2.0, 3.0, 4.0])
    assert replay.ids.tolist() == [2, 3, 4]
    assert 1 not in replay and 2 in replay
    with pytest.raises(KeyError, match="no snapshot 1"):
        replay.snapshot(1)


def test_duplicate_priorities_the_older_first():
    replay = PrioritizedReplay(4, alpha=1.0)
    fill(replay, [1.0, 1.0, 1.0, 1.0])
    replay.add(np.array(4), 1.0)  # it takes the slot of snapshot 0
    shares = np.array([1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(replay.probabilities, shares / shares.sum(), rtol=1e-15)


def test_updates_of_what_was_overwritten_are_passed_over(make):
    replay = make(2)
    fill(replay, [1.0, 1.0, 1.0])
    assert replay.update([0, 2], [5.0, 6.0]).tolist() == [False, True]
    assert replay.priorities.tolist() == [1, 6]
    assert replay.update([1, 1], [3.0, 4.0]).tolist() == [True, True]  # the last counts
    assert replay.update(np.int64(1), 7).tolist() == [True]
    assert replay.priorities.tolist() == [7, 6]
    assert replay.update([], []).tolist() == []


@pytest.mark.parametrize(
    ("ids", "priorities", "error", "message"),
    [
        ([0, 1], [1.0, np.nan], ValueError, "got nan"),
        ([0, 1], [1.0, np.inf], ValueError, "got inf"),
        ([0, 1], [5.0, -1.0], ValueError, "got -1.0"),
        ([0, 2], [5.0, 1.0], ValueError, "no snapshot ever had the id 2: the next new one gets 2"),
        ([0, -1], [5.0, 1.0], ValueError, "the id -1"),
        ([0, 1], [5.0], ValueError, r"the shapes \(2,\) and \(1,\)"),
        ([[0, 1]], [[5.0, 1.0]], ValueError, r"both \[k\]"),
        ([0.0], [5.0], TypeError, "integer ids, got dtype float64"),
    ],
)
def test_false_updates_change_nothing(ids, priorities, error, message):
    replay = PrioritizedReplay(2, priority="proportional")
    fill(replay, [1.0, 2.0])
    with pytest.raises(error, match=message):
        replay.update(ids, priorities)
    assert replay.priorities.tolist() == [1, 2]


@pytest.mark.parametrize("priority", [np.nan, np.inf, -0.5])
def test_false_priorities_are_refused_and_nothing_is_stored(make, priority):
    replay = make(1)
    replay.add(np.array(0), 2.0)
    with pytest.raises(ValueError, match="expected a finite priority"):
        replay.add(np.array(1), priority)
    with pytest.raises(TypeError, match="dtype object"):
        replay.add({"w": np.array([None])})
    assert replay.ids.tolist() == [0]
    assert replay.add(np.array(1)) == 1


def test_an_empty_replay(make):
    replay = make(3)
    assert len(replay) == 0
    assert replay.ids.shape == replay.priorities.shape == replay.probabilities.shape == (0,)
    with pytest.raises(ValueError, match=r"empty: add\(\) a snapshot"):
        replay.sample()
    replay.add(np.array(0))
    assert replay.drop(0) and not replay.drop(0)
    with pytest.raises(ValueError, match="empty"):
        replay.sample()


def test_later_changes_of_an_array_reach_nothing_stored(make, assert_same):
    replay = make(2)
    snapshot = {"w": np.arange(3.0), "steps": [np.array(1)]}
    replay.add(snapshot)
    snapshot["w"][:] = -1
    snapshot["steps"].append(0)
    expected = {"w": np.arange(3.0), "steps": [np.array(1)]}
    first = replay.sample(2).snapshots
    assert_same(first, [expected, expected])
    first[0]["w"][:] = -1
    assert_same(first[1], expected)
    assert_same(replay.snapshot(0), expected)


def test_beta_is_annealed_by_the_samples_or_by_a_given_step():
    replay = PrioritizedReplay(3, alpha=1.0, beta=0.5, beta_steps=4, seed=0)
    fill(replay, [3.0, 2.0, 1.0])
    assert [replay.sample().beta for _ in range(6)] == [0.5, 0.625, 0.75, 0.875, 1, 1]
    assert replay.sample(step=1).beta == 0.625
    assert replay.beta == 0.75
    sample = replay.sample(50, step=10**6)
    # At beta 1 and alpha 1 the weight is (1/3) / (1/rank).
    np.testing.assert_allclose(sample.weights, (sample.ids + 1) / 3)


def test_the_same_seed_gives_the_same_draws(make):
    replays = [make(10, seed=5), make(10, seed=5), make(10, seed=6)]
    draws = []
    for replay in replays:
        fill(replay, PRIORITIES)
        draws.append([replay.sample(3).ids.tolist() for _ in range(20)])
    assert draws[0] == draws[1] != draws[2]


def test_clear(make):
    replay = make(2)
    fill(replay, [1.0, 2.0, 3.0])
    replay.clear()
    assert len(replay) == 0
    assert replay.add(np.array(0)) == 3  # ids go on


def test_verify_finds_nothing_wrong(make):
    replay = make(2)
    fill(replay, [1.0, 2.0])
    assert replay.verify() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "capacity of at least 1, got 0"),
        ({"priority": "ranks"}, '"rank" or "proportional", got \'ranks\''),
        ({"alpha": -0.1}, "alpha that is not negative, got -0.1"),
        ({"alpha": np.inf}, "finite alpha"),
        ({"beta": 1.1}, "beta from 0 to 1, got 1.1"),
        ({"beta": np.nan}, "beta from 0 to 1, got nan"),
        ({"beta_steps": 0}, "beta_steps of at least 1, or None, got 0"),
        ({"priority": "proportional", "eps": 0.0}, "eps > 0, got 0.0"),
    ],
)
def test_false_settings_are_refused_before_a_directory_is_made(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        PrioritizedReplay(**{"capacity": 3, "directory": tmp_path / "new", **settings})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 0}, {"batch_size": -1}, {"step": -1}], ids=repr
)
def test_false_arguments_of_sample(arguments):
    replay = PrioritizedReplay(2)
    replay.add(np.array(0))
    with pytest.raises(ValueError, match="expected a"):
        replay.sample(**arguments)
    with pytest.raises(TypeError):
        replay.sample(1.5)


def test_memory_has_no_state():
    replay = PrioritizedReplay(2)
    for call in [replay.state, replay.save, lambda: replay.restore({}), lambda: replay.commit({})]:
        with pytest.raises(ValueError, match="construct it with directory="):
            call()
    assert replay.directory is None


def test_repr_says_what_matters(make):
    text = repr(make(7, priority="proportional"))
    assert "0 snapshots" in text and "capacity=7" in text and "proportional" in text


def test_the_public_names_exist():
    assert all(hasattr(package, name) for name in package.__all__)
