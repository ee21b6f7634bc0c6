import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.train_val.comparison.problems import Halving, problem
from train_val.comparison import measure


def test_the_mean_has_what_some_steps_do_more_and_the_median_has_not(monkeypatch):
    cost = sys.modules["train_val.comparison.cost"]
    clock, order = [0.0], []

    class Slow(Halving):
        def step(self, objective, weight, state):
            clock[0] += 5.0 if state % 5 == 4 else 1.0
            order.append("step")
            return super().step(objective, weight, state)

    def gradient(tensors, parameters):
        clock[0] += 0.5
        order.append("gradient")
        return 0.0

    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(cost, "_gradient", lambda: gradient)
    by_hand = problem()
    by_hand.task.objective = lambda *_: SimpleNamespace()
    found = measure(by_hand, Slow(0.9), rounds=10)
    # Of ten steps two take 5 and eight take 1; a gradient takes a half.
    assert found.gradients == pytest.approx((2 * 5 + 8) / (10 * 0.5))
    assert (found.median, found.step_seconds, found.gradient_seconds) == (2.0, 1.0, 0.5)
    assert found.peak_bytes is None
    assert len(order) == 2 * (cost.WARM_UP + 10) and order[:4] == [
        "step",
        "gradient",
        "gradient",
        "step",
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_peak_memory_is_not_that_of_the_process_that_started_it():
    ballast = np.ones(250_000_000)  # 2 GB, which Linux' ru_maxrss hands on
    # Without the imports of its module, which take seconds.
    function = inspect.getsource(sys.modules["train_val.comparison.cost"]._peak_bytes)
    imports = "import resource, sys\nfrom pathlib import Path\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}{function}print(_peak_bytes())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ballast.nbytes == 2e9
    assert 1e6 < int(done.stdout) < 5e8
