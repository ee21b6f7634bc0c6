import errno
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import DamagedFileError, read_structure, write_structure
from tests.project import ROOT

DTYPES = ["f2", "f4", "f8", ">f4", "c16", "i1", "i2", "i4", "i8", "u1", "u4", "u8", "?", "U4", "S3"]
SHAPES = [(), (0,), (1,), (5,), (2, 3), (0, 4), (2, 0, 3)]


@pytest.fixture
def structure():
    generator = np.random.default_rng(0)
    return {
        "weights": {"kernel": generator.standard_normal((3, 4)).astype(np.float32)},
        "step": 12,
        "rate": 0.1,
        "states": [(np.zeros((2, 0)), np.array(7, np.uint8)), None, "name", 2**100],
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, assert_same, dtype, shape):
    generator = np.random.default_rng(0)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if np.dtype(dtype).kind in "?US":
        array = generator.integers(0, 2, shape).astype(dtype)
    else:  # any bits at all, not-a-numbers and their payloads included
        array = np.frombuffer(generator.bytes(count), dtype).reshape(shape)
    write_structure(tmp_path / "file.npz", array)
    assert_same(read_structure(tmp_path / "file.npz"), array)


def test_a_nested_structure_comes_back(tmp_path, assert_same, structure):
    write_structure(tmp_path / "file.npz", structure)
    assert_same(read_structure(tmp_path / "file.npz"), structure)
    assert os.listdir(tmp_path) == ["file.npz"]


@pytest.mark.parametrize(
    "view",
    [
        np.arange(24.0)[::-3],
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.broadcast_to(np.float32(3), (2, 2)),
        np.arange(12).reshape(3, 4)[:, 1:3],
    ],
    ids=["reversed", "fortran", "broadcast", "slice"],
)
def test_any_memory_layout(tmp_path, assert_same, view):
    write_structure(tmp_path / "file.npz", [view])
    (got,) = read_structure(tmp_path / "file.npz")
    assert_same(got, view)
    got[...] = 0  # writable


def test_the_same_structure_gives_the_same_bytes(tmp_path, structure):
    first = write_structure(tmp_path / "a.npz", structure)
    assert write_structure(tmp_path / "b.npz", structure) == first
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    structure["rate"] = 0.2
    assert write_structure(tmp_path / "b.npz", structure) != first


def test_numpy_opens_the_file_without_pickle(tmp_path, structure):
    write_structure(tmp_path / "file.npz", structure)
    with np.load(tmp_path / "file.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["0"], structure["weights"]["kernel"])
        assert b'"kernel"' in file["structure.json"]


def test_an_object_array_is_refused_and_the_former_file_stays(tmp_path, assert_same):
    path = tmp_path / "file.npz"
    write_structure(path, [1])
    with pytest.raises(TypeError, match="dtype object"):
        write_structure(path, {"a": np.array([{}])})
    assert_same(read_structure(path), [1])


def test_pickled_arrays_in_a_file_are_never_loaded(tmp_path):
    path = tmp_path / "file.npz"
    write_structure(path, [np.zeros(1)])
    with zipfile.ZipFile(path) as archive:
        header = archive.read("structure.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("structure.json", header)
        with archive.open("0.npy", "w") as member:
            np.lib.format.write_array(member, np.array([print]), allow_pickle=True)
    with pytest.raises(DamagedFileError, match="allow_pickle"):
        read_structure(path)


def test_a_missing_file_is_not_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_structure(tmp_path / "absent.npz")


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "file.npz"
    write_structure(path, {"a": np.arange(5.0), "b": np.zeros(0)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        # Only of what begins like a file of this package it is said that it may be deleted.
        advice = "Delete it" if length >= 44 else "Give the right file"
        with pytest.raises(DamagedFileError, match=rf"file\.npz is damaged.*{advice}") as caught:
            read_structure(path)
    assert caught.value.path == str(path)


def test_no_flipped_bit_changes_what_is_read(tmp_path, assert_same):
    path = tmp_path / "file.npz"
    structure = {"a": np.arange(3, dtype=np.float32), "b": [0.5, np.zeros(0)]}
    write_structure(path, structure)
    whole = path.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        for bit in (0, 3, 7):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert_same(read_structure(path), structure)  # a date or a version, say
            except DamagedFileError:
                noticed += 1
    assert noticed > len(whole)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_a_foreign_file_is_a_damaged_one(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("foreign") / "file.npz"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        read_structure(path)


def test_a_foreign_npz_is_a_damaged_one(tmp_path):
    np.savez(tmp_path / "file.npz", a=np.zeros(2))
    with pytest.raises(DamagedFileError, match=r"structure\.json") as caught:
        read_structure(tmp_path / "file.npz")
    assert "elete" not in str(caught.value)
    with pytest.raises(DamagedFileError, match="found a directory"):
        read_structure(tmp_path)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("structure.json", b"0" * 10_000_000)
    with pytest.raises(DamagedFileError, match="its members are compressed"):
        read_structure(tmp_path / "bomb.npz")


def test_a_later_version_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        archive.writestr("structure.json", '{"version": 2, "later": true}')
    with pytest.raises(ValueError, match="version 2 .* reads version 1") as caught:
        read_structure(tmp_path / "file.npz")
    assert not isinstance(caught.value, DamagedFileError)


def test_another_file_under_the_same_name_is_noticed(tmp_path, assert_same):
    path = tmp_path / "file.npz"
    checksum = write_structure(path, [np.zeros(2)])
    assert_same(read_structure(path, checksum), [np.zeros(2)])
    write_structure(path, [np.ones(2)])
    with pytest.raises(DamagedFileError, match=f"expected the checksum {checksum:08x}, got"):
        read_structure(path, checksum)


def test_the_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(DamagedFileError("text", "path")))
    assert (str(error), error.path) == ("text", "path")


FULL_DISK = """
import errno, os, resource, sys
import numpy as np
from replay import read_structure, write_structure

write_structure("file.npz", [np.arange(3)])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # the kernel refuses what is longer
try:
    write_structure("file.npz", {"big": np.zeros(100_000)})
except OSError as error:
    assert error.errno == errno.EFBIG and error.filename.endswith("file.npz"), error
else:
    sys.exit("no error")
assert os.listdir(".") == ["file.npz"], os.listdir(".")
assert read_structure("file.npz")[0].tolist() == [0, 1, 2]
write_structure("file.npz", [np.arange(4)])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_disk_that_takes_no_more_bytes(tmp_path):
    # A real failing write, at a size where the buffers have been flushed before.
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_a_full_disk_leaves_everything_else_usable(tmp_path, monkeypatch, assert_same):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_structure(tmp_path / "file.npz", [1])
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
        patch.setattr(os, "fsync", full)
        write_structure(tmp_path / "file.npz", [2])
    assert_same(read_structure(tmp_path / "file.npz"), [1])
    assert os.listdir(tmp_path) == ["file.npz"]
