"""A real SIGKILL, at whatever moment, damages nothing."""

import os
import random
import shutil
import subprocess
import sys
import time

import pytest

from replay import PrioritizedReplay, read_structure, write_structure
from tests.project import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")

# The same trainer runs to the end without a kill in memory, and on disk with kills: what it draws
# depends on its step alone. argv: folder, save or checkpoint.
TRAINER = """
import os, sys
import numpy as np
from replay import PrioritizedReplay, read_structure, write_structure

def snapshot_of(number):
    return {"number": number, "weights": np.full((50, 50), number, dtype=np.float32)}

def step(replay, number):
    if number % 2 == 0:
        replay.add(snapshot_of(number // 2))
    sample = replay.sample(2)
    replay.update(sample.ids, 1 / (1 + (31 * number + sample.ids) % 17))
    return sample.ids.tolist()

def run(folder, way):
    directory, checkpoint = os.path.join(folder, "replay"), os.path.join(folder, "checkpoint.npz")
    first = 0
    if way == "save" and os.path.exists(os.path.join(directory, "index.json")):
        replay = PrioritizedReplay.load(directory)
        first = replay.state()["step"]
    else:
        replay = PrioritizedReplay(4, directory, seed=0)
        if way == "checkpoint" and os.path.exists(checkpoint):
            saved = read_structure(checkpoint)
            replay.restore(saved["replay"])
            first = saved["step"]
        else:
            replay.clear()
    for number in range(first, 10**6):
        step(replay, number)
        if number % 3 == 0:
            if way == "save":
                replay.save()
            else:
                state = replay.state()
                write_structure(checkpoint, {"step": number + 1, "replay": state})
                replay.commit(state)
        if number == first + 3:
            print("running", flush=True)

if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("way", ["save", "checkpoint"])
def test_kills_at_random_moments(tmp_path, way, assert_same):
    directory = tmp_path / "replay"
    trainer = {"__name__": "trainer"}
    exec(TRAINER, trainer)
    uninterrupted = PrioritizedReplay(4, seed=0)
    done = 0
    moments = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(tmp_path), way],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            line = process.stdout.readline()
            time.sleep(moments.uniform(0, 0.05))
        finally:
            process.kill()
            _, errors = process.communicate()
        assert line == "running\n", errors

        if way == "save":
            replay = PrioritizedReplay.load(directory)
            reached = replay.state()["step"]
        else:
            saved = read_structure(tmp_path / "checkpoint.npz")
            replay = PrioritizedReplay(4, directory)
            replay.restore(saved["replay"])
            reached = saved["step"]
        with replay:
            assert reached > done
            for number in range(done, reached):
                trainer["step"](uninterrupted, number)
            done = reached
            assert replay.verify() == []
            assert replay.ids.tolist() == uninterrupted.ids.tolist()
            assert replay.priorities.tobytes() == uninterrupted.priorities.tobytes()
            for number in replay.ids.tolist():
                assert_same(replay.snapshot(number), trainer["snapshot_of"](number))
            # At most the saved snapshots, and those of the steps after it.
            assert len(os.listdir(directory)) <= 4 + 4 + 2
            assert not [name for name in os.listdir(directory) if name.endswith(".tmp")]


def test_every_state_that_the_disk_passes_through_can_be_restored(
    tmp_path, monkeypatch, assert_same
):
    """Copies the folder before each call that changes or flushes it, and restores every copy."""
    trainer = {"__name__": "trainer"}
    exec(TRAINER, trainer)
    live, copies = tmp_path / "live", []
    checkpointed = []  # what the replay held at each checkpoint, by its number

    def observed(call):
        def copy_first(*arguments, **keywords):
            with monkeypatch.context() as patch:
                for name, original in originals.items():
                    patch.setattr(os, name, original)
                copies.append(shutil.copytree(live, tmp_path / f"copy-{len(copies)}"))
            return call(*arguments, **keywords)

        return copy_first

    replay = PrioritizedReplay(3, live / "replay", seed=0)
    originals = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}
    with monkeypatch.context() as patch:
        for name, call in originals.items():
            patch.setattr(os, name, observed(call))
        for number in range(12):
            trainer["step"](replay, number)
            if number % 4 == 3:
                state = replay.state()
                checkpointed.append((replay.ids.tolist(), replay.priorities.tobytes()))
                write_structure(
                    live / "checkpoint.npz", {"count": len(checkpointed), "replay": state}
                )
                replay.commit(state)
    restored = []
    for folder in copies:
        if (folder / "checkpoint.npz").exists():
            saved = read_structure(folder / "checkpoint.npz")
            with PrioritizedReplay(3, folder / "replay") as replay:
                replay.restore(saved["replay"])
                expected = checkpointed[saved["count"] - 1]
                assert (replay.ids.tolist(), replay.priorities.tobytes()) == expected
                for number in replay.ids.tolist():
                    assert_same(replay.snapshot(number), trainer["snapshot_of"](number))
            restored.append(saved["count"])
    # Python 3.10's pathlib keeps os.unlink and os.replace of its own: fewer of its calls are seen.
    fewest = 20 if sys.version_info >= (3, 11) else 15
    assert len(restored) > fewest and set(restored) == {1, 2, 3}
