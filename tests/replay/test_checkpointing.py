"""The replay on disk: one cut with a trainer's checkpoint, damage, full disks, two processes."""

import errno
import json
import os
import warnings

import numpy as np
import pytest

from replay import (
    DamagedFileError,
    DamagedSnapshotError,
    PrioritizedReplay,
    read_structure,
    write_structure,
)


def files(directory):
    return sorted(name for name in os.listdir(directory) if name.endswith(".npz"))


def names(*ids):
    return [f"snapshot-{number:08d}.npz" for number in ids]


def grow(replay, snapshot_of, count):
    for _ in range(count):
        number = replay._next_id
        replay.add(snapshot_of(number), priority=1.0 + (7 * number) % 5 / 3)


def go_on(replay, snapshot_of, steps=15):
    """A trainer's use of a replay; what it saw."""
    seen = []
    for step in range(steps):
        sample = replay.sample(2)
        seen.append((sample.ids.tolist(), sample.weights.tolist(), sample.beta))
        replay.update(sample.ids, 1 / (1 + sample.ids + step))
        if step % 3 == 0:
            replay.add(snapshot_of(replay._next_id))
    return seen, replay.ids.tolist(), replay.priorities.tolist()


@pytest.fixture(params=["rank", "proportional"])
def settings(request):
    return {"capacity": 5, "priority": request.param, "beta_steps": 20, "seed": 3}


def test_each_snapshot_is_one_file_that_is_written_once(tmp_path, snapshot_of):
    replay = PrioritizedReplay(5, tmp_path)
    grow(replay, snapshot_of, 3)
    before = {name: (tmp_path / name).stat() for name in files(tmp_path)}
    grow(replay, snapshot_of, 2)
    replay.update([0, 1], [3.0, 4.0])
    replay.save()
    assert files(tmp_path) == names(0, 1, 2, 3, 4)
    for name, stat in before.items():
        now = (tmp_path / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def test_after_load_everything_goes_on_as_without_the_interruption(
    tmp_path, settings, snapshot_of, assert_same
):
    with PrioritizedReplay(directory=tmp_path / "a", **settings) as replay:
        grow(replay, snapshot_of, 7)
        replay.drop(4)
        replay.sample(3)
        replay.update([3, 5], [0.1, 1 / 3])
        replay.save()
        priorities = replay.priorities
        expected = go_on(replay, snapshot_of)
    with PrioritizedReplay.load(tmp_path / "a") as replay:
        assert replay.priorities.tobytes() == priorities.tobytes()
        assert replay.ids.tolist() == [2, 3, 5, 6]
        for number in replay.ids:
            assert_same(replay.snapshot(number), snapshot_of(number))
        assert go_on(replay, snapshot_of) == expected
        assert replay.verify() == []


def test_restore_is_one_cut(tmp_path, settings, snapshot_of, assert_same):
    directory, checkpoint = tmp_path / "replay", tmp_path / "checkpoint.npz"
    with PrioritizedReplay(directory=directory, **settings) as replay:
        grow(replay, snapshot_of, 6)
        state = replay.state()
        write_structure(checkpoint, {"step": 12, "replay": state})
        replay.commit(state)
        expected = go_on(replay, snapshot_of)
        grow(replay, snapshot_of, 9)  # everything the state names is evicted
        assert not set(replay.ids.tolist()) & {1, 2, 3, 4, 5}
        assert replay.verify() == []
    with PrioritizedReplay(directory=directory, **settings) as replay:
        replay.restore(read_structure(checkpoint)["replay"])
        assert replay.ids.tolist() == [1, 2, 3, 4, 5]
        for number in replay.ids:
            assert_same(replay.snapshot(number), snapshot_of(number))
        assert go_on(replay, snapshot_of) == expected


def test_a_state_can_be_restored_again_and_again_in_the_same_process(tmp_path, snapshot_of):
    replay = PrioritizedReplay(3, tmp_path, seed=0)
    grow(replay, snapshot_of, 3)
    state = json.loads(json.dumps(replay.state()))
    runs = []
    for _ in range(3):
        runs.append(go_on(replay, snapshot_of))
        replay.restore(state)
        assert replay.verify() == []
    assert runs[0] == runs[1] == runs[2]


def test_evicted_files_stay_until_a_later_state_is_committed(tmp_path, snapshot_of):
    replay = PrioritizedReplay(2, tmp_path)
    grow(replay, snapshot_of, 4)
    assert files(tmp_path) == names(2, 3)  # no state names 0 and 1: deleted at once
    first = replay.state()
    grow(replay, snapshot_of, 3)
    assert files(tmp_path) == names(2, 3, 5, 6)
    second = replay.state()
    replay.commit(first)
    grow(replay, snapshot_of, 1)
    assert files(tmp_path) == names(2, 3, 5, 6, 7)  # 5 and 6: second may be on its way to the disk
    replay.commit(second)
    assert files(tmp_path) == names(5, 6, 7)
    grow(replay, snapshot_of, 2)
    assert files(tmp_path) == names(5, 6, 8, 9)
    with pytest.raises(ValueError, match="2 of the 2 snapshots .* later state was committed"):
        replay.restore(first)
    assert replay.ids.tolist() == [8, 9]  # nothing has changed
    replay.restore(second)
    assert replay.ids.tolist() == [5, 6]
    assert files(tmp_path) == names(5, 6, 8, 9)
    replay.commit(replay.state())
    assert files(tmp_path) == names(5, 6)


def test_several_checkpoints_can_be_kept(tmp_path, snapshot_of):
    replay = PrioritizedReplay(2, tmp_path)
    states = []
    for _ in range(4):
        grow(replay, snapshot_of, 2)
        states.append(replay.state())
        replay.commit(*states[-2:])
    assert files(tmp_path) == names(4, 5, 6, 7)
    replay.restore(states[-2])
    assert replay.verify() == []


def test_the_directory_does_not_grow_without_bound(tmp_path, snapshot_of):
    replay = PrioritizedReplay(3, tmp_path)
    for _ in range(30):
        grow(replay, snapshot_of, 2)
        replay.commit(replay.state())
        assert len(files(tmp_path)) <= 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grow(replay, snapshot_of, 1)
    with pytest.warns(UserWarning, match=r"call commit\(state\) each time"):
        for _ in range(103):
            replay.state()
            grow(replay, snapshot_of, 1)


def test_what_was_stored_after_the_state_is_overwritten_or_deleted(
    tmp_path, snapshot_of, assert_same
):
    replay = PrioritizedReplay(9, tmp_path)
    grow(replay, snapshot_of, 2)
    state = replay.state()
    grow(replay, snapshot_of, 3)
    replay.restore(state)
    assert replay.add(snapshot_of(77)) == 2
    assert_same(replay.snapshot(2), snapshot_of(77))
    assert files(tmp_path) == names(0, 1, 2, 3, 4)
    replay.commit(replay.state())
    assert files(tmp_path) == names(0, 1, 2)


def test_a_state_from_another_branch_is_not_mixed_up(tmp_path, snapshot_of):
    replay = PrioritizedReplay(9, tmp_path)
    grow(replay, snapshot_of, 2)
    state = replay.state()
    grow(replay, snapshot_of, 1)
    other = replay.state()
    replay.restore(state)
    replay.add(snapshot_of(77))
    replay.restore(other)
    assert replay.verify() == [2]
    with pytest.raises(DamagedSnapshotError, match="Another run has written to this folder"):
        replay.snapshot(2)


def test_an_earlier_replay_in_the_directory_is_not_overwritten(tmp_path, snapshot_of):
    with PrioritizedReplay(3, tmp_path) as replay:
        grow(replay, snapshot_of, 3)
        state = replay.state()
        replay.save()
    with PrioritizedReplay(3, tmp_path) as replay:
        for call in [
            lambda: replay.add(snapshot_of(0)),
            replay.sample,
            replay.save,
            lambda: replay.commit(state),
        ]:
            with pytest.raises(ValueError, match="3 snapshots of an earlier replay.*clear()"):
                call()
        assert files(tmp_path) == names(0, 1, 2)
        replay.clear()
        assert os.listdir(tmp_path) == ["lock"]
        assert replay.add(snapshot_of(0)) == 0


def test_load_takes_other_settings(tmp_path, snapshot_of):
    with PrioritizedReplay(3, tmp_path, alpha=0.3, beta_steps=10) as replay:
        grow(replay, snapshot_of, 3)
        replay.save()
    with PrioritizedReplay.load(tmp_path, capacity=5, priority="proportional") as replay:
        grow(replay, snapshot_of, 2)
        assert replay.ids.tolist() == [0, 1, 2, 3, 4]
        assert "alpha=0.3" in repr(replay) and "proportional" in repr(replay)
    with pytest.raises(ValueError, match="needs a capacity of 3, this replay has 2"):
        PrioritizedReplay.load(tmp_path, capacity=2)
    PrioritizedReplay.load(tmp_path).close()  # the failure has not kept the lock


def test_a_state_is_plain_whatever_kind_of_numbers_came_in(tmp_path, snapshot_of):
    settings = {"alpha": np.float32(0.5), "beta": np.float64(0.25), "beta_steps": np.int64(9)}
    with PrioritizedReplay(np.int32(3), tmp_path, **settings) as replay:
        replay.add(snapshot_of(0), np.float32(0.1))
        replay.update(np.array([0]), np.array([0.3], np.float32))
        replay.sample(np.int64(2), step=np.int64(4))
        state = replay.state()
        assert json.loads(json.dumps(state)) == state
        replay.restore(state)
        assert replay.priorities.tolist() == [np.float32(0.3)]


def test_load_where_nothing_was_saved(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no replay was saved .* with save\(\)"):
        PrioritizedReplay.load(tmp_path)


def test_a_damaged_index_says_so(tmp_path, snapshot_of):
    with PrioritizedReplay(3, tmp_path) as replay:
        grow(replay, snapshot_of, 3)
        replay.save()
    index = tmp_path / "index.json"
    whole = index.read_text()
    assert '"next_id": 3' in whole
    for damaged in ["", "[]", "{}", whole[:50], whole.replace('"next_id": 3', '"next_id": 4')]:
        index.write_text(damaged)
        with pytest.raises(DamagedFileError, match=r"index\.json is damaged"):
            PrioritizedReplay.load(tmp_path)


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        place = content.index(b'"version"')
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "flipped"])
def test_a_damaged_snapshot_is_named_and_the_rest_stays_usable(tmp_path, snapshot_of, how):
    replay = PrioritizedReplay(4, tmp_path, seed=0)
    grow(replay, snapshot_of, 4)
    state = replay.state()
    damage(tmp_path / "snapshot-00000002.npz", how)
    assert replay.verify() == [2]
    generator = replay.state()["generator"]
    message = r"snapshot-00000002\.npz is (damaged|missing).*replay\.drop\(2\)"
    with pytest.raises(DamagedSnapshotError, match=message) as caught:
        replay.sample(batch_size=100)
    assert caught.value.id == 2
    assert replay.state()["generator"] == generator  # as if it had not been asked
    assert replay.beta == 0.5
    assert replay.drop(caught.value.id)
    sample = replay.sample(batch_size=100)
    assert set(sample.ids.tolist()) == {0, 1, 3}
    if how == "missing":
        with pytest.raises(ValueError, match="1 of the 4 snapshots .*id 2"):
            replay.restore(state)
        with pytest.warns(UserWarning, match="1 of the 4 .* going on without"):
            replay.restore(state, missing="drop")
        assert replay.ids.tolist() == [0, 1, 3]
    else:
        replay.restore(state)
        assert replay.ids.tolist() == [0, 1, 2, 3]


def test_a_full_disk_stores_nothing_and_evicts_nothing(tmp_path, snapshot_of, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replay = PrioritizedReplay(2, tmp_path)
    grow(replay, snapshot_of, 2)
    replay.save()
    before = sorted(os.listdir(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="disk is full") as caught:
            replay.add(snapshot_of(2))
        assert caught.value.errno == errno.ENOSPC
        replay.update(0, 5.0)
        with pytest.raises(OSError, match="disk is full"):
            replay.save()
        replay.sample()
    assert sorted(os.listdir(tmp_path)) == before
    assert replay.ids.tolist() == [0, 1]
    assert replay.verify() == []
    replay.close()
    with PrioritizedReplay.load(tmp_path) as loaded:
        assert loaded.ids.tolist() == [0, 1]
        assert loaded.add(snapshot_of(2)) == 2


def test_a_second_replay_on_the_directory_is_refused(tmp_path, snapshot_of):
    replay = PrioritizedReplay(2, tmp_path)
    replay.add(snapshot_of(0))
    with pytest.raises(RuntimeError, match="another replay uses"):
        PrioritizedReplay(2, tmp_path)
    replay.close()
    replay.sample()  # reading is still allowed
    for call in [lambda: replay.add(snapshot_of(1)), replay.save, lambda: replay.drop(0)]:
        with pytest.raises(RuntimeError, match="was closed"):
            call()
    assert replay.ids.tolist() == [0]
    PrioritizedReplay(2, tmp_path).close()


def test_a_directory_that_cannot_be_one(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="a replay needs a directory it can write to"):
        PrioritizedReplay(2, tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do anything")
def test_a_directory_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="Check the path and its permissions"):
        PrioritizedReplay(2, tmp_path)


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    (tmp_path / ".snapshot-00000003.npz.99-abcd.replacing.tmp").write_bytes(b"half")
    with PrioritizedReplay(2, tmp_path) as replay:
        assert os.listdir(tmp_path) == ["lock"]
        replay.add(np.zeros(2))
