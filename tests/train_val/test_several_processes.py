"""`use_meta_optimizer --strategy=multi_worker`: two processes, one of which is killed."""

import json
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.distribute import DataParallel
from replay import read_structure
from tests.mlhf.distribute import processes
from tests.train_val.commands import DIGITS, run
from train_val import use_meta_optimizer
from train_val.cli.exit_statuses import FAILED, TERMINATED
from train_val.training.processes import Processes, described, make_strategy

FLAGS = (*DIGITS, "--optimizer=kfac", "--lr=0.1", "--damping=0.1", "--save_steps=4")
COMMAND = ["-m", "train_val.use_meta_optimizer", "--strategy=multi_worker"]


def begin(folder, steps):
    flags = (*FLAGS, f"--max_steps={steps}", f"--model_dir={folder}")
    return processes.begin([[*COMMAND, *flags]] * 2)


def ends(started, seconds=300):
    """Returns the statuses of processes, and what they wrote."""
    try:
        written = [process.communicate(timeout=seconds)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], written


def wait_for(path, started, seconds=300):
    until = time.monotonic() + seconds
    while not path.exists():
        assert all(process.poll() is None for process in started), ends(started)
        assert time.monotonic() < until, f"no {path.name} after {seconds} s"
        time.sleep(0.01)


def last_parameters(folder):
    return read_structure(sorted(folder.glob("checkpoint-*.npz"))[-1])["parameters"]


@pytest.mark.slow
def test_a_worker_is_killed_and_the_run_continued(tmp_path):
    folder = tmp_path / "killed"
    started = begin(folder, 2000)
    wait_for(folder / "checkpoint-000000004.npz", started)
    started[1].send_signal(signal.SIGKILL)
    (status, _), (written, _) = ends(started)
    assert status == FAILED, written
    assert "Expected all processes of the cluster to take every step together, lost" in written
    assert "Traceback" not in written
    # The first process saved the steps that all had taken.
    reached = int(sorted(folder.glob("checkpoint-*.npz"))[-1].stem.split("-")[1])
    for name in ("killed", "whole"):
        statuses, written = ends(begin(tmp_path / name, reached + 10))
        assert statuses == [0, 0], written
        assert "divided among 2 replicas in 2 processes" in written[0] and "Adam" not in written[1]
    run(
        use_meta_optimizer, *FLAGS, f"--max_steps={reached + 10}", f"--model_dir={tmp_path / 'one'}"
    )
    killed, whole, one = (last_parameters(tmp_path / name) for name in ("killed", "whole", "one"))
    for path, value in whole.items():
        np.testing.assert_array_equal(killed[path], value)
        np.testing.assert_allclose(one[path], value, 2e-4, 2e-5)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, reached + 11))
    assert not any(json.loads(line)["synchronized"] for line in lines[:reached])


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_with_a_checkpoint(tmp_path):
    started = begin(tmp_path, 100_000)
    wait_for(tmp_path / "checkpoint-000000004.npz", started)
    started[1].send_signal(signal.SIGTERM)
    statuses, written = ends(started)
    assert statuses == [0, TERMINATED], written


def test_without_a_cluster_it_says_what_to_set(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="Expected the environment variable TF_CONFIG to describe"):
        make_strategy("multi_worker")
    assert make_strategy(None) is None


def test_one_device_is_said_to_be_one():
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    text = described(DataParallel(strategy, mlhf.HessianFree()))
    assert text.startswith("--strategy found one device") and "CPU:0" in text


def test_one_process_has_the_whole_batch():
    alone = Processes(object())
    assert alone.is_first and not alone.are_several and alone.part(7) == 7
    assert (alone.of_first([3]), alone.in_any(True)) == ([3], True)
