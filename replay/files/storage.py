"""A structure of arrays in one file.

The file is an `.npz`: a ZIP archive with one `.npy` member for each array (`0.npy`, `1.npy`, ...)
and the member `structure.json`, which says how they nest. `np.load` opens it too. Nothing in it is
pickled. The same structure gives the same bytes, on every day and every machine.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.files.atomic import replace_file
from replay.files.structure import Structure, flatten, unflatten
from replay.files.unreadable import DamagedFileError, LaterVersionError

_DESCRIPTION = "structure.json"
_VERSION = 1
# Every file begins with a member of this name, not compressed.
_BEGINNING, _NAME_AT = b"PK\x03\x04", 30


def write_structure(path: str | os.PathLike[str], structure: Structure) -> int:
    """Writes a structure of arrays to one file, which is replaced as a whole or not at all.

    Args:
      path: The file. The name is taken as it is; `.npz` is the usual ending.
      structure: Dicts, lists and tuples of arrays and plain values, as `structure.flatten`
        takes them. Every dtype of NumPy except `object` comes back bit for bit, as do shapes []
        and shapes with a 0.

    Returns:
      The checksum of the contents, a CRC-32 that `read_structure` can compare.

    Raises:
      TypeError: If the structure holds something that cannot be stored; nothing was written.
      OSError: If the disk is full or the file cannot be written. The temporary file is gone, and
        the former file, if there was one, unchanged.
    """
    description, arrays = flatten(structure)
    header = {"version": _VERSION, "arrays": len(arrays), "structure": description}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    with replace_file(path) as file:
        # Not compressed: weights are noise to a compressor.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_member(_DESCRIPTION), text)
            for number, array in enumerate(arrays):
                # The size is unknown to zipfile until the end; more than 2 GB must fit.
                with archive.open(_member(f"{number}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            checksum = _checksum(archive)
    return checksum


def read_structure(path: str | os.PathLike[str], checksum: int | None = None) -> Structure:
    """Reads a structure of arrays that `write_structure` wrote.

    Every byte of the contents is checked against its CRC-32 before any is interpreted.

    Args:
      path: The file.
      checksum: The return value of `write_structure`, to make sure that this is still the same
        structure; None accepts any.

    Returns:
      The structure, its arrays writable and owned by the caller.

    Raises:
      FileNotFoundError: If there is no such file.
      MemoryError: If the arrays do not fit into memory.
      DamagedFileError: If the file is cut short, changed, of another origin, a directory, or
        intact with another checksum than the one asked for. The message names the file and says
        what to do; it suggests deleting only files that `write_structure` began.
      LaterVersionError: If a later version of this package wrote the file.
    """
    name = os.fspath(path)
    if os.path.isdir(path):
        raise DamagedFileError(
            f"Expected a file of arrays in {name}, found a directory: move it away, or give "
            "another path.",
            name,
        )
    with open(path, "rb") as file:
        # Damage makes the readers below raise nearly anything, NotImplementedError included.
        try:
            with zipfile.ZipFile(file) as archive:
                header = _read_header(archive)
                actual = _checksum(archive)
                if header["version"] == _VERSION:
                    arrays = [_read_array(archive, k) for k in range(header["arrays"])]
                    structure = unflatten(header["structure"], arrays)
        except MemoryError:
            raise
        except Exception as error:
            problem = f"{name} is damaged ({error or type(error).__name__})"
            if _is_own(name):
                advice = (
                    ". It was cut short or changed after it was written. Delete it and go back to "
                    "an intact copy."
                )
            else:
                advice = (
                    " or something else wrote it: expected a file of arrays that begins with "
                    f"{_DESCRIPTION}. Give the right file, or an intact copy of it."
                )
            raise DamagedFileError(problem + advice, name) from error
    if header["version"] != _VERSION:
        raise LaterVersionError(
            f"{name} has version {header['version']} of the format, and this package reads "
            f"version {_VERSION}. Read it with the version of the package that wrote it.",
            name,
        )
    if checksum is not None and checksum != actual:
        raise DamagedFileError(
            f"{name} is intact, but not the file that was asked for: expected the checksum "
            f"{checksum:08x}, got {actual:08x}. Another run has written to this folder. Go back to "
            "a copy of the folder from the time of the checkpoint.",
            name,
        )
    return structure


def _is_own(name: str) -> bool:
    """Whether `write_structure` began the file: only then may an error suggest deleting it."""
    with open(name, "rb") as file:
        start = file.read(_NAME_AT + len(_DESCRIPTION))
    return start.startswith(_BEGINNING) and start[_NAME_AT:] == _DESCRIPTION.encode()


def _member(name: str) -> zipfile.ZipInfo:
    # A fixed date, so that the same structure gives the same bytes.
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.external_attr = 0o644 << 16
    return member


def _checksum(archive: zipfile.ZipFile) -> int:
    listing = "".join(f"{member.filename} {member.CRC:08x}\n" for member in archive.infolist())
    return zlib.crc32(listing.encode())


def _read_header(archive: zipfile.ZipFile) -> dict[str, Any]:
    # Files are written without compression: a small compressed member could unpack to any size.
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise ValueError("its members are compressed")
    # This reads every member to its end, where zipfile compares the CRC-32. Interpreting damaged
    # bytes first could ask for an array of any size.
    broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the CRC-32 of its member {broken} does not match")
    header = json.loads(archive.read(_DESCRIPTION))
    if not isinstance(header, dict):
        raise ValueError(f"its member {_DESCRIPTION} is not a JSON object")
    if not isinstance(header["version"], int):
        raise ValueError(f"its version is {header['version']!r}")
    return header


def _read_array(archive: zipfile.ZipFile, number: int) -> NDArray[Any]:
    with archive.open(f"{number}.npy") as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    return array
