"""Executors: results in order, the same after a worker is killed; what they say otherwise."""

import os
import signal
import sys
import time

import pytest

from mlhf.checks.arguments import check_executor
from mlhf.distribute import ProcessExecutor, RayExecutor


def squares(folder):
    """Returns a function whose first call with 2 kills its process.

    It is made here, so that processes get the function itself and need not import this module.
    """

    def square(number):
        mark = folder / "killed"
        if number == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01 * (5 - number))
        return number * number

    return square


def test_results_are_in_order_also_when_a_process_is_killed(tmp_path):
    results = list(ProcessExecutor(2).map(squares(tmp_path), range(5)))
    assert (tmp_path / "killed").exists()
    assert results == [0, 1, 4, 9, 16]


def test_a_computation_that_kills_its_process_ends():
    with pytest.raises(RuntimeError, match="killed 3 times in a row"):
        list(ProcessExecutor(2).map(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0, 1]))


def test_closures_and_errors_pass():
    offset = 3
    assert list(ProcessExecutor(2).map(lambda x: x + offset, [1, 2])) == [4, 5]
    with pytest.raises(ZeroDivisionError):
        list(ProcessExecutor(1).map(lambda x: 1 / x, [0]))


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'mlhf\[ray\]'"):
        RayExecutor()


@pytest.mark.slow
def test_ray_gives_the_same_results(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        results = list(RayExecutor().map(squares(tmp_path), range(5)))
    finally:
        ray.shutdown()
    assert results == [0, 1, 4, 9, 16] and (tmp_path / "killed").exists()


def test_an_executor_has_map():
    assert check_executor(None) is None
    with pytest.raises(TypeError, match=r"Expected an executor with map\(function"):
        check_executor(4)
