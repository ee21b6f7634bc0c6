"""Starts commands as the processes of one cluster on this machine."""

import contextlib
import json
import os
import socket
import subprocess
import sys

from tests.project import ROOT


def environments(workers):
    """Returns the environment of each process of a cluster; that of one process has none."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("localhost", 0))
        cluster = {"worker": [f"localhost:{one.getsockname()[1]}" for one in sockets]}
    alone = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    if workers == 1:
        return [alone]
    tasks = [{"type": "worker", "index": index} for index in range(workers)]
    return [
        {**alone, "TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks
    ]


def begin(commands, folder=ROOT):
    """Starts a command in each process of a cluster of as many, and returns the processes."""
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for command, environment in zip(commands, environments(len(commands)), strict=True)
    ]  # fmt: skip


def run(commands, folder=ROOT, seconds=300):
    """Runs the commands to their end and returns what they wrote."""
    processes = begin(commands, folder)
    try:
        written = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, written, strict=True):
        assert process.returncode == 0, text[-5000:]
    return written
