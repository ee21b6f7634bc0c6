"""Files of a run that were damaged, or that another version wrote: told by name, or no matter."""

import functools
import shutil
import zipfile

import numpy as np
import pytest

from mlhf.meta_optimizer import weights_file
from mlhf.runs import run_log
from mlhf.runs.checkpoints import CheckpointError, Checkpoints, DamagedCheckpointError
from replay import UnreadableFileError, read_structure, write_structure
from tests import damage
from tests.mlhf.runs import short_runs
from tests.mlhf.runs.short_runs import KINDS, SAVED, STEPS, rule


@pytest.fixture(scope="module")
def problem():
    return short_runs.make_problem()


@pytest.fixture(params=KINDS)
def run(request, problem, monkeypatch):
    """From a folder and a number of steps to all that a run ends with."""
    return short_runs.runs(monkeypatch, problem)[request.param]


@pytest.fixture
def check(run, tmp_path):
    """Continues a copy of a folder that something was done to."""
    run(tmp_path / "begun", SAVED)
    whole = run(tmp_path / "whole", STEPS)

    def check(name, change):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "begun", folder)
        change(folder)
        try:
            found = run(folder, STEPS)
        except (UnreadableFileError, CheckpointError) as error:
            assert str(folder) in str(error) and "\n" not in str(error), (name, error)
            return str(error)
        except OSError as error:
            assert str(folder) in str(error.filename), (name, error)
            return str(error)
        for a, b in zip(found, whole, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(name))
        return None

    return check


def files(folder):
    return sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock" and "tfevents" not in path.name
    )


def test_a_damaged_file_is_named_or_no_matter(check, tmp_path):
    assert check("nothing", lambda folder: None) is None
    assert check("the checkpoint alone", keep_checkpoints) is None
    for number, file in enumerate(files(tmp_path / "begun")):
        content = (tmp_path / "begun" / file).read_bytes()
        # A few of each; what reads them is given all below.
        for name, other in list(damage.damaged(content))[number % 4 :: 6]:
            told = check((file, name), functools.partial(put, file, other))
            if file.name == run_log.FILE or file.name.startswith("record"):
                # A record of the past stops no run.
                assert told is None or other is None, (file, name)
            if file.name.startswith("checkpoint") and name in damage.CONTENTS:
                assert told, name


def keep_checkpoints(folder):
    """With the replay's snapshots, which are a part of them."""
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("checkpoint"):
            path.unlink()


def put(file, content, folder):
    damage.put(folder / file, content)


def test_a_changed_checkpoint_is_named_or_no_matter(check, tmp_path):
    file = f"checkpoint-{SAVED:09d}.npz"
    cases = list(damage.changed(read_structure(tmp_path / "begun" / file)))
    numbers = [case for case in cases if case[0][-1] in ("NaN", "int")]
    for where, other in cases[:: max(1, len(cases) // 12)] + numbers[:: max(1, len(numbers) // 6)]:
        told = check(where, functools.partial(rewrite, file, other))
        # Numbers that no checkpoint has are not taken over.
        assert told or (where, other) not in numbers, where


def rewrite(file, content, folder):
    write_structure(folder / file, content)


def test_a_damaged_checkpoint_is_named_and_only_ones_own_may_be_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(3, {"signature": {"a": 1}, "weights": np.arange(20.0)})
    path = tmp_path / "checkpoint-000000003.npz"
    for name, content in damage.damaged(path.read_bytes()):
        damage.put(path, content)
        if name in ("twice", "a flipped bit"):
            continue
        with pytest.raises(DamagedCheckpointError) as caught:
            checkpoints.read()
        told = str(caught.value)
        assert str(path) in told and "\n" not in told, name
        own = name in ("cut in half", "without its end")
        assert ("Delete it" in told and "Remove that file" in told) == own, told
        assert own or ("elete" not in told and "Remove" not in told), told
    checkpoints = Checkpoints(tmp_path / "later")
    with zipfile.ZipFile(checkpoints.folder / "checkpoint-000000007.npz", "w") as archive:
        archive.writestr("structure.json", '{"version": 2}')
    with pytest.raises(DamagedCheckpointError, match="000000007.npz has version 2 of the format"):
        checkpoints.read()
    write_structure(checkpoints.folder / "checkpoint-000000008.npz", [1])
    with pytest.raises(DamagedCheckpointError, match="state of a run in .*008.npz, found a list"):
        checkpoints.read()


def test_a_record_of_metrics_keeps_what_is_sound_and_a_copy_of_the_rest(tmp_path, capsys):
    path = tmp_path / run_log.FILE
    log = run_log.RunLog(tmp_path)
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 2})
    log.close()
    whole = path.read_bytes()
    lines = run_log.read(path)
    for name, content in damage.damaged(whole):
        for begun in (whole, b"") if content is not None else (b"",):
            damage.put(path, None if content is None else begun + content)
            if content is None:
                with pytest.raises(UnreadableFileError, match=f"{path}, found a directory"):
                    run_log.RunLog(tmp_path, 3)
                return
            log = run_log.RunLog(tmp_path, 3)
            log.close()
            sound = [line for line in lines if line in log.lines]
            assert log.lines == sound and (sound == lines or not begun), name
            assert run_log.read(path) == sound
            copy = path.with_name(path.name + run_log.DAMAGED)
            if copy.exists():
                assert copy.read_bytes() == begun + content, name
                copy.unlink()
            else:
                assert name in ("empty", "cut in half", "without its end", "twice") or (
                    b"\n" not in content
                ), name


def test_a_damaged_file_of_a_meta_optimizer_is_named(tmp_path):
    optimizer = rule()
    optimizer.draw_weights(["bias", "kernel"])
    path = optimizer.save(tmp_path / "optimizer.npz")
    whole = path.read_bytes()
    content = read_structure(path)

    def refused(name):
        with pytest.raises(UnreadableFileError) as caught:
            weights_file.read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), name

    for name, other in damage.damaged(whole):
        if name not in ("twice", "a flipped bit") and other is not None:
            damage.put(path, other)
            refused(name)
    for where, other in damage.changed(content):
        if where != ("weights", "d", "is gone"):  # as of an optimizer without LSTMs
            write_structure(path, other)
            refused(where)
