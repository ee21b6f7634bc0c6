"""JSON that may be damaged: what is read of it, and that the file is named."""

import json
import math

import pytest

from replay import (
    DamagedFileError,
    PrioritizedReplay,
    UnreadableFileError,
    read_json,
    read_json_lines,
)
from tests import damage

WHOLE = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25, "name": "\xc3\xa9"}\n'


def test_an_object_is_read_and_everything_else_is_named(tmp_path):
    path = tmp_path / "file.json"
    whole = json.dumps({"a": [1, 2.5, None], "b": {"c": "\u2028"}}).encode()
    path.write_bytes(whole)
    assert read_json(path, "the settings") == json.loads(whole)
    for name, content in damage.damaged(whole):
        damage.put(path, content)
        try:
            found = read_json(path, "the settings")
        except DamagedFileError as error:
            assert error.path == str(path) and str(path) in str(error), name
            assert "the settings" in str(error) and "\n" not in str(error), name
            assert "elete" not in str(error), name
        else:
            assert isinstance(found, dict), name
        if content is None:
            assert (path / "kept").read_text() == "mine"
            break
    path = tmp_path / "other.json"
    with pytest.raises(FileNotFoundError):
        read_json(path, "the settings")
    path.write_bytes(b'{"b": [-Infinity, 1e999, -1e-999]}')
    assert read_json(path, "the settings") == {"b": [-math.inf, math.inf, 0.0]}


def test_lines_stand_each_for_itself(tmp_path):
    path = tmp_path / "file.jsonl"
    lines = [json.loads(line) for line in WHOLE.splitlines()]
    for name, content in damage.CONTENTS.items():
        begun = WHOLE + content + (b"\n" if content and not content.endswith(b"\n") else b"")
        path.write_bytes(begun + WHOLE)
        found = read_json_lines(path)
        assert found.lines[:2] == lines == found.lines[-2:], name
        assert not found.torn
        holds_object = name in ("another object", "not a number", "empty")
        # "another encoding" has a line end among its bytes.
        assert (found.damaged == []) == holds_object, name
    for cut in range(len(WHOLE)):
        path.write_bytes(WHOLE[:cut])
        found = read_json_lines(path)
        assert found.lines == lines[: len(found.lines)] and found.damaged == []
        assert found.torn == (cut > 0 and WHOLE[cut - 1 : cut] != b"\n")
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedFileError, match=f"{path}, found a directory"):
        read_json_lines(path)


@pytest.fixture
def recorded(tmp_path, snapshot_of):
    with PrioritizedReplay(4, tmp_path / "whole", seed=0) as replay:
        for number in range(3):
            replay.add(snapshot_of(number), number + 1.0)
        replay.save()
    return tmp_path / "whole"


def test_whatever_became_of_an_index(recorded):
    path = recorded / "index.json"
    whole = path.read_bytes()
    for name, content in damage.damaged(whole):
        damage.put(path, content)
        try:
            PrioritizedReplay.load(recorded).close()
        except UnreadableFileError as error:
            assert str(path) in str(error) and "\n" not in str(error), name
            # What something else wrote is not to be cleared away.
            assert "clear()" not in str(error) or name == "a flipped bit"
        else:
            assert json.loads(content) == json.loads(whole), name
        if content is None:
            break
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "settings",
    [{"alpha": "0.7"}, {"capacity": None}, {"later": 1}, {"priority": []}, {"beta_steps": 0.5}],
)
def test_an_index_of_another_version(recorded, settings):
    with PrioritizedReplay.load(recorded) as replay:
        state = replay.state()
        state["settings"].update(settings)
        replay._store.write_index(state)
    with pytest.raises(DamagedFileError, match=r"index\.json can't be used"):
        PrioritizedReplay.load(recorded)


def test_whatever_became_of_a_snapshot_the_rest_stays_usable(recorded):
    path = recorded / "snapshot-00000001.npz"
    whole = path.read_bytes()
    for name, content in damage.damaged(whole):
        damage.put(path, content)
        with PrioritizedReplay.load(recorded) as replay:
            damaged = replay.verify()
            assert damaged in ([1], []), name
            # A second copy behind it, or another date within, leave the arrays what they were.
            assert damaged == [1] or name in ("twice", "a flipped bit")
            assert len(replay.sample(1).ids) == 1 if not damaged else replay.drop(1)
            assert replay.verify() == []
        if content is None:
            break
        path.write_bytes(whole)
