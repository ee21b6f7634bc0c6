import errno
import os
import stat

import pytest

from replay import remove_temporary_files, replace_file


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"former")
    with replace_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"former"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with replace_file("file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        with replace_file(tmp_path / "file") as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("failure", [KeyError("a"), KeyboardInterrupt()])
def test_a_failing_block_changes_nothing(tmp_path, failure):
    path = tmp_path / "file"
    path.write_bytes(b"former")
    with pytest.raises(type(failure)), replace_file(path) as file:
        file.write(b"new")
        raise failure
    assert path.read_bytes() == b"former"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_changes_nothing_and_says_so(tmp_path, monkeypatch, call):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"former")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full") as caught:
        patch.setattr(os, call, full)
        with replace_file(path) as file:
            file.write(b"new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"former"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="Check that its folder exists"):
        with replace_file(tmp_path / "absent" / "file"):
            pass


def test_a_file_system_that_cannot_flush_folders(tmp_path, monkeypatch):
    flush = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with replace_file(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_only_temporary_files_are_removed(tmp_path):
    for name in ["file", ".hidden", "other.tmp", ".file.12-ab.replacing.tmp"]:
        (tmp_path / name).touch()
    assert remove_temporary_files(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == [".hidden", "file", "other.tmp"]
