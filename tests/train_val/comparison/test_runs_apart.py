"""Runs of a comparison that others make: the same numbers as here, also if a process is killed."""

import dataclasses
import os
import signal

import pytest

from mlhf.distribute import ProcessExecutor
from train_val import comparison, task_families

PROBLEM = {
    "task": "mlp:width=8:data=digits",
    "batch_size": 64,
    "train_sample": 100,
    "test_sample": 100,
}
OPTIMIZERS = "adam:lr=0.01/0.1,hf:lr=1:damping=1"


def scores(**how):
    """Returns the tunings and curves of a small comparison, without the seconds of curves."""
    found = comparison.scoreboard(
        task_families.problem_of(PROBLEM),
        comparison.parse_all(OPTIMIZERS),
        seeds=(1, 2),
        steps=4,
        every=2,
        also=(1,),
        tuning_steps=2,
        largest=3,
        progress=False,
        **how,
    )
    return [
        (
            score.tuning,
            [dataclasses.replace(c, seconds=[0.0] * len(c.seconds)) for c in score.curves],
        )
        for score in found
    ]


class InTurn:
    """An executor that does what it is given here, and notes how much at once."""

    def __init__(self):
        self.sizes = []

    def map(self, function, requests):
        self.sizes.append(len(requests))
        return map(function, requests)


class Killed:
    """An executor with two processes, the first of which is killed after it began."""

    def __init__(self, mark):
        self.mark = mark

    def map(self, function, requests):
        mark = self.mark

        def call(request):
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(request)

        return ProcessExecutor(2).map(call, requests)


@pytest.fixture(scope="module")
def expected():
    return scores()


def test_an_executor_is_given_a_grid_then_neighbors_then_seeds(expected, tmp_path):
    executor = InTurn()
    apart = comparison.RunsApart(executor, PROBLEM)
    assert scores(apart=apart, cache=tmp_path / "runs.jsonl") == expected
    assert executor.sizes == [2, 1, 2, 2]
    # What is stored is not made again.
    assert scores(apart=apart, cache=tmp_path / "runs.jsonl") == expected
    assert executor.sizes == [2, 1, 2, 2]


@pytest.mark.slow
def test_processes_measure_the_same_bits_also_when_one_is_killed(expected, tmp_path):
    mark = tmp_path / "killed"
    assert scores(apart=comparison.RunsApart(Killed(mark), PROBLEM)) == expected
    assert mark.exists()


def test_an_executor_has_map():
    with pytest.raises(TypeError, match=r"Expected an executor with map\(function"):
        comparison.RunsApart(3, PROBLEM)
