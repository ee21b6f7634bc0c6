import os
import signal
import subprocess
import sys

import pytest

from replay.files.directory_lock import DirectoryLock
from tests.project import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks on Windows")

HOLDER = """
import os, sys, time
from pathlib import Path
from replay.files.directory_lock import DirectoryLock
def say(text):  # whole lines, whatever the other process writes at the same time
    os.write(1, f"{text}\\n".encode())
lock = DirectoryLock(Path(sys.argv[1]))
child = 0
if sys.argv[2] == "fork":
    child = os.fork()
    if child == 0:
        try:
            lock.check()
        except RuntimeError as error:
            say("refused" if "forked" in str(error) else error)
        os.close(1)  # the test reads to the end of what the parent prints
        time.sleep(60)
        os._exit(0)
say(child)
time.sleep(60)
"""


def hold(directory, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def end(holder):
    holder.kill()
    holder.wait()
    holder.stdout.close()


def test_one_at_a_time_within_a_process(tmp_path):
    lock = DirectoryLock(tmp_path)
    with pytest.raises(RuntimeError, match=f"process {os.getpid()}, this one is {os.getpid()}"):
        DirectoryLock(tmp_path)
    lock.check()
    lock.release()
    lock.release()
    with pytest.raises(RuntimeError, match="was closed"):
        lock.check()
    second = DirectoryLock(tmp_path)
    del second  # collected, it lets go
    DirectoryLock(tmp_path).release()


def test_another_process_is_refused_until_the_first_is_killed(tmp_path):
    holder = hold(tmp_path, "alone")
    try:
        assert holder.stdout.readline() == "0\n"
        with pytest.raises(RuntimeError, match=f"process {holder.pid}, .* End that process"):
            DirectoryLock(tmp_path)
    finally:
        end(holder)
    DirectoryLock(tmp_path).release()


def test_a_forked_child_neither_writes_nor_keeps_the_lock_alive(tmp_path):
    holder = hold(tmp_path, "fork")
    child = None
    try:
        lines = {holder.stdout.readline().strip() for _ in range(2)}
        child = int((lines - {"refused"}).pop())
        assert "refused" in lines
        with pytest.raises(RuntimeError, match="another replay"):
            DirectoryLock(tmp_path)  # the child has closed its copy, the parent still holds it
        end(holder)
        os.kill(child, 0)  # it is alive
        DirectoryLock(tmp_path).release()
    finally:
        if child is not None:
            os.kill(child, signal.SIGKILL)
        end(holder)


def test_a_file_of_that_name_that_is_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "lock").write_text("my own notes, and more than a number")
    lock = DirectoryLock(tmp_path)
    with pytest.raises(RuntimeError, match="process unknown"):
        DirectoryLock(tmp_path)
    lock.release()
    assert (tmp_path / "lock").read_text() == "my own notes, and more than a number"
