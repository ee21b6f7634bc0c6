import functools
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading

import pytest

from tests.project import ROOT
from train_val import cifar10_download_and_extract as download
from train_val.cifar10_download_and_extract import DownloadError, download_and_extract

FILES = {f"data_batch_{n}.bin": bytes([n]) * 100_000 for n in range(3)}


def md5(content):
    return hashlib.md5(content).hexdigest()


MD5S = {name: md5(content) for name, content in FILES.items()}


def make_archive(files, folder="cifar-10-batches-bin/"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=0) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = make_archive(FILES)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the archive: all of it, the rest of it, or breaking off in the middle."""

    breaks_after = None
    knows_ranges = True

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        start = 0
        if self.headers.get("Range") and self.knows_ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(ARCHIVE):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(ARCHIVE) - start))
        self.end_headers()
        self.wfile.write(ARCHIVE[start : self.breaks_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(**options):
        handler = type("Handler", (Handler,), options)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.ranges = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server, f"http://127.0.0.1:{server.server_port}/archive.tar.gz"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


fetch = functools.partial(download_and_extract, archive_md5=md5(ARCHIVE), file_md5s=MD5S)


def assert_complete(data_dir):
    written = {path.relative_to(data_dir).as_posix() for path in data_dir.rglob("*.*")}
    assert written == {f"cifar-10-batches-bin/{name}" for name in FILES}
    for name, content in FILES.items():
        assert (data_dir / "cifar-10-batches-bin" / name).read_bytes() == content


def assert_one_sentence(error, *found):
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("Expected")
    for words in found:
        assert str(words) in str(error.value)


def test_download_once(tmp_path, serve):
    server, url = serve()
    data_dir = tmp_path / "new" / "folder"
    assert fetch(data_dir, url)
    assert_complete(data_dir)
    assert not fetch(data_dir, url)
    assert server.ranges == [None]


def test_a_damaged_file_is_fetched_again(tmp_path, serve):
    _, url = serve()
    fetch(tmp_path, url)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(b"damaged")
    assert fetch(tmp_path, url)
    assert_complete(tmp_path)


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_continues_what_broke_off(tmp_path, serve, knows_ranges):
    _, broken = serve(breaks_after=150_000)
    with pytest.raises(DownloadError) as error:
        fetch(tmp_path, broken)
    assert_one_sentence(error, "run this again")
    assert not (tmp_path / "cifar-10-batches-bin").exists()
    server, url = serve(knows_ranges=knows_ranges)
    assert fetch(tmp_path, url)
    assert server.ranges == ["bytes=150000-"]
    assert_complete(tmp_path)


def test_a_kill_after_the_last_byte(tmp_path, serve):
    _, url = serve()
    (tmp_path / "cifar-10-binary.tar.gz.part").write_bytes(ARCHIVE)
    assert fetch(tmp_path, url)
    assert_complete(tmp_path)


def test_a_kill_before_the_extraction(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(ARCHIVE)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "data_batch_0.bin.part").write_bytes(b"half")
    assert fetch(tmp_path, "http://127.0.0.1:1/unreachable")
    assert_complete(tmp_path)


def test_wrong_archive(tmp_path, serve):
    _, url = serve()
    with pytest.raises(DownloadError) as error:
        download_and_extract(tmp_path, url, "0" * 32, MD5S)
    assert_one_sentence(error, "0" * 32, md5(ARCHIVE), "--url")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_what_is_too_large_is_not_the_archive(tmp_path, serve, monkeypatch, told):
    _, url = serve()
    monkeypatch.setattr(download, "_LARGEST_ARCHIVE", 120_000)
    if not told:
        response = io.BytesIO(ARCHIVE)
        response.headers = {}
        monkeypatch.setattr(download, "_open", lambda url, have: response)
    with pytest.raises(DownloadError) as error:
        fetch(tmp_path, url)
    assert_one_sentence(error, "at most 120,000 bytes", "--url")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) == 0


def test_wrong_file_in_the_archive(tmp_path, serve):
    _, url = serve()
    with pytest.raises(DownloadError) as error:
        fetch(tmp_path, url, file_md5s=MD5S | {"data_batch_1.bin": "0" * 32})
    assert_one_sentence(error, "data_batch_1.bin", "0" * 32, MD5S["data_batch_1.bin"])
    assert not (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").exists()


def test_file_not_in_the_archive(tmp_path, serve):
    _, url = serve()
    with pytest.raises(DownloadError) as error:
        fetch(tmp_path, url, file_md5s=MD5S | {"test_batch.bin": "0" * 32})
    assert_one_sentence(error, "Expected test_batch.bin")


def test_not_an_archive(tmp_path):
    path = tmp_path / "archive"
    path.write_bytes(b"text")
    with pytest.raises(DownloadError) as error:
        download_and_extract(tmp_path / "data", path.as_uri(), md5(b"text"), MD5S)
    assert_one_sentence(error, "gzipped tar archive")


def test_an_archive_writes_nothing_outside(tmp_path):
    content = make_archive(FILES | {"other.bin": b"other"}, folder="../../")
    path = tmp_path / "archive"
    path.write_bytes(content)
    data_dir = tmp_path / "a" / "b" / "data"
    assert fetch(data_dir, path.as_uri(), archive_md5=md5(content))
    assert_complete(data_dir)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "archive"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/archive", "file:///nowhere", "no url"])
def test_no_network(tmp_path, url):
    with pytest.raises(DownloadError) as error:
        fetch(tmp_path / "data", url)
    assert_one_sentence(error, url, "connect to the network")
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_made(tmp_path, serve):
    _, url = serve()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError) as error:
        fetch(tmp_path / "file" / "data", url)
    assert_one_sentence(error, "--data_dir")


@pytest.mark.parametrize(
    "command",
    [
        [str(ROOT / "train_val" / "cifar10_download_and_extract.py")],
        ["-m", "train_val.cifar10_download_and_extract"],
    ],
)
def test_command_line_without_network(tmp_path, command):
    flags = [f"--data_dir={tmp_path / 'data'}", "--url=http://127.0.0.1:1/archive"]
    cwd = ROOT if command[0] == "-m" else tmp_path
    result = subprocess.run(
        [sys.executable, *command, *flags], cwd=cwd, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Expected to download CIFAR-10 from http://127.0.0.1:1/archive")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_command_line_with_all_there(tmp_path, serve, monkeypatch, capsys):
    _, url = serve()
    monkeypatch.setattr(download_and_extract, "__defaults__", (url, md5(ARCHIVE), MD5S))
    download.run(str(tmp_path), url)
    download.run(str(tmp_path), url)
    assert capsys.readouterr().out.count("already") == 1


@pytest.mark.data
def test_published_checksums(data_dir):
    # The real files are all there and correct: nothing is downloaded.
    assert not download_and_extract(data_dir, "http://127.0.0.1:1/unreachable")
