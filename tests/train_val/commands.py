"""Runs the command lines: in this process, or in one that can be killed."""

import os
import signal
import subprocess
import sys
import time

from absl import flags

from tests.project import ROOT
from train_val.cli import running

FLAGS = flags.FLAGS
DIGITS = ("--data=digits", "--problem=mlp", "--batch_size=32")


def run(module, *arguments):
    """Runs a command line as its process does, with flags of its own."""
    before = set(FLAGS)
    module.define_flags()
    try:
        check = getattr(module, "check_flags", None)
        running.read_flags([module.__name__, *map(str, arguments)], check)
        running.guarded(module.main)
    finally:
        for name in set(FLAGS) - before:
            delattr(FLAGS, name)


def start(name, *arguments, as_module=False):
    """Starts a command line as a process of its own."""
    path = ["-m", f"train_val.{name}"] if as_module else [f"train_val/{name}.py"]
    return subprocess.Popen(
        [sys.executable, *path, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT) if as_module else ""},
        # A shell's background jobs ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def kill_at(process, checkpoint, seconds=900):
    """Sends SIGKILL as soon as a file is there."""
    ends = time.monotonic() + seconds
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < ends, f"no {checkpoint.name} after {seconds} s"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
