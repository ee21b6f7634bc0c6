"""Downloads CIFAR-10's binary files: `python train_val/cifar10_download_and_extract.py`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401

import hashlib
import http.client
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from absl import flags
from tqdm import tqdm

from train_val.cli import running
from train_val.cli.definitions import text

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FILE_MD5S = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
_TIMEOUT_SECONDS = 30
# More than the size of the archive and of a file in it: anything larger is something else.
_LARGEST_ARCHIVE, _LARGEST_FILE = 400_000_000, 64_000_000
_CHUNK = 1 << 18


class DownloadError(Exception):
    """Raised when the files can't be downloaded; the text says why and what to do."""


def download_and_extract(
    data_dir: Path,
    url: str = URL,
    archive_md5: str = ARCHIVE_MD5,
    file_md5s: Mapping[str, str] = FILE_MD5S,
) -> bool:
    """Makes `data_dir/cifar-10-batches-bin/` hold the files, complete and correct.

    The next call continues a download that broke off. A file gets its name only after its checksum
    is right, so that a kill leaves nothing half written.

    Args:
      data_dir: The folder; made if it does not exist.
      url: The address of the archive.
      archive_md5: The checksum of the archive.
      file_md5s: The names of the files to take out of the archive, with their checksums.

    Returns:
      False if all files were there and correct, so that there was nothing to do.

    Raises:
      DownloadError: If there is no network, a checksum is wrong, or the folder can't be written.
    """
    folder = data_dir / FOLDER
    archive = data_dir / "cifar-10-binary.tar.gz"
    try:
        if all(_has_md5(folder / name, md5) for name, md5 in file_md5s.items()):
            return False
        if not _has_md5(archive, archive_md5):
            _download(url, archive, archive_md5)
        _extract(archive, folder, file_md5s)
        archive.unlink()
    except OSError as error:
        raise DownloadError(
            f"Expected to write CIFAR-10 into {data_dir}, could not ({error}): make room or give"
            " another folder with --data_dir."
        ) from error
    return True


def _download(url: str, archive: Path, md5: str) -> None:
    part = archive.with_name(archive.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    try:
        response = _open(url, have)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _cannot_download(url, error) from error
        # All of it is here already (or too much, which the checksum will show).
        response = None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _cannot_download(url, error) from error
    if response is not None:
        with response:
            _write(response, part, have, url)
    found = _md5(part)
    if found != md5:
        part.unlink()
        raise DownloadError(
            f"Expected an archive with the md5 sum {md5} from {url}, got {found}: run this again,"
            " and if that does not help give another source with --url."
        )
    part.replace(archive)


def _open(url: str, have: int) -> Any:
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)


def _write(response: Any, part: Path, have: int, url: str) -> None:
    """Appends to the partial file if the server sends the rest; rewrites it if it sends all."""
    if getattr(response, "status", None) != http.client.PARTIAL_CONTENT:
        have = 0
    length = response.headers.get("Content-Length")
    total = have + int(length) if length and length.isdecimal() else None
    if total is not None and total > _LARGEST_ARCHIVE:
        raise _too_large(url, total)
    part.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(
        desc="CIFAR-10", initial=have, total=total, unit="B", unit_scale=True, unit_divisor=1024
    )
    with bar, open(part, "ab" if have else "wb") as file:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _cannot_download(url, error) from error
            if not chunk:
                break
            if file.tell() + len(chunk) > _LARGEST_ARCHIVE:
                file.truncate(0)  # nothing that a later call should continue
                raise _too_large(url, file.tell() + len(chunk))
            file.write(chunk)
            bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size < total:
        raise DownloadError(
            f"Expected {total:,} bytes from {url}, the connection ended after {size:,}: run this"
            " again, it continues there."
        )


def _too_large(url: str, size: int) -> DownloadError:
    return DownloadError(
        f"Expected at most {_LARGEST_ARCHIVE:,} bytes from {url}, found {size:,} or more: it is"
        " something else, give the source of the binary version with --url."
    )


def _cannot_download(url: str, error: Exception) -> DownloadError:
    return DownloadError(
        f"Expected to download CIFAR-10 from {url}, could not"
        f" ({getattr(error, 'reason', None) or error or type(error).__name__}): connect to the"
        " network and run this again, or give another source with --url."
    )


def _extract(archive: Path, folder: Path, file_md5s: Mapping[str, str]) -> None:
    """Extracts the known files from the archive and nothing else, whatever paths it names."""
    folder.mkdir(exist_ok=True)
    missing = dict(file_md5s)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                content = tar.extractfile(member) if name in missing else None
                if content is not None:
                    _extract_file(content, folder / name, missing.pop(name))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DownloadError(
            f"Expected a gzipped tar archive in {archive}, could not read it ({error}): delete it"
            " and run this again."
        ) from error
    if missing:
        raise DownloadError(
            f"Expected {', '.join(missing)} in {archive}, found no such file: give the source of"
            " the binary version with --url."
        )


def _extract_file(content: IO[bytes], path: Path, md5: str) -> None:
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        while chunk := content.read(_CHUNK):
            file.write(chunk)
            if file.tell() > _LARGEST_FILE:
                break  # its md5 sum will be wrong
    found = _md5(part)
    if found != md5:
        part.unlink()
        raise DownloadError(
            f"Expected a {path.name} with the md5 sum {md5} in the archive, found {found}: give"
            " the source of the original files with --url."
        )
    part.replace(path)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _has_md5(path: Path, md5: str) -> bool:
    return path.is_file() and _md5(path) == md5


def run(data_dir: str, url: str) -> None:
    """Runs `download_and_extract` and prints a line with the outcome.

    Args:
      data_dir: The folder that `cifar-10-batches-bin/` is made in.
      url: The address of the archive.

    Raises:
      SystemExit: If the files can't be downloaded; the text says why.
    """
    folder = Path(data_dir) / FOLDER
    try:
        changed = download_and_extract(Path(data_dir), url)
    except DownloadError as error:
        sys.exit(str(error))
    print(f"CIFAR-10 is in {folder}." if changed else f"CIFAR-10 is in {folder} already.")


def define_flags() -> None:
    """Defines the flags; at import they would clash with those of another script."""
    text("data_dir", "./cifar10_data", "The folder that cifar-10-batches-bin/ is made in.", "Files")
    text("url", URL, "The address of the archive of the binary version.", "Files")


def main() -> None:
    """Reads the flags and downloads."""
    run(flags.FLAGS.data_dir, flags.FLAGS.url)


if __name__ == "__main__":
    running.begin(__doc__, define_flags, tensorflow=False)
    running.finish(main)
