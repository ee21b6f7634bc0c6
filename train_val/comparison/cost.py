"""Measures what a step costs: in gradients, timed alternately with them, and in memory."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

import mlhf
from mlhf.optimizers.protocol import complete
from train_val.problems.problem import Problem

# Steps before timing starts: they trace, and some optimizers do more work at the start, those that
# measure curvature in the first ten.
WARM_UP = 10


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a step.

    Attributes:
      gradients: The mean time of a step divided by that of a gradient on the same batch size.
      median: The median over the rounds of a step's time divided by that of the gradient beside
        it; below `gradients` if some steps do more than others (K-FAC's inversions).
      step_seconds: The median time of a step.
      gradient_seconds: The median time of a gradient.
      peak_bytes: The peak memory of the process; None unless it was measured in a separate process.
      rounds: The number of rounds that were timed; None if it was not saved.
      machine: The machine, as `machine()` describes it; None if it was not saved.
    """

    gradients: float
    median: float
    step_seconds: float
    gradient_seconds: float
    peak_bytes: int | None = None
    rounds: int | None = None
    machine: str | None = None

    @classmethod
    def read(cls, structure: Any) -> Cost | None:
        """Returns the cost that a structure of JSON describes; None if it describes none."""
        try:
            cost = cls(**structure)
        except TypeError:
            return None
        numbers = (cost.gradients, cost.median, cost.step_seconds, cost.gradient_seconds)
        counts = (cost.peak_bytes, cost.rounds)
        fits = (
            all(isinstance(number, float) and number > 0 for number in numbers)
            and all(count is None or isinstance(count, int) for count in counts)
            and (cost.machine is None or isinstance(cost.machine, str))
        )
        return cost if fits else None

    def serves(self, rounds: int) -> bool:
        """Whether it was measured on this machine in enough rounds, as far as that was saved."""
        return (self.rounds is None or self.rounds >= rounds) and self.machine in (None, machine())


def machine() -> str:
    """Returns a description of what the time of a step depends on: processor, GPU, TensorFlow."""
    gpu = ", GPU" if tf.config.list_physical_devices("GPU") else ""
    return f"{os.cpu_count()} cores, {platform.machine()}{gpu}, TensorFlow {tf.__version__}"


def measure(problem: Problem, optimizer: Any, rounds: int = 20) -> Cost:
    """Times steps and gradients alternately, so that a disturbance affects both.

    Args:
      problem: The problem that is trained.
      optimizer: An optimizer with `init` and `step`.
      rounds: The number of rounds, each a gradient and a step. 20 of them include one of K-FAC's
        inversions.

    Returns:
      The cost, without the memory.
    """
    task = problem.task
    parameters, model_state = task.initialize(0), task.initial_model_state()
    state = complete(optimizer).init_for(task, parameters)
    steps, gradients = [], []
    batches = iter(task.batches(0))
    for number in range(WARM_UP + rounds):
        objective = task.objective(*next(batches), model_state)
        if number == 0:
            gradient = _gradient()
        # Each goes first in every other round: the pipeline of the batches disturbs the first.
        order = ("gradient", "step") if number % 2 else ("step", "gradient")
        seconds = {}
        for what in order:
            started = time.perf_counter()
            # Wait for one number of the result, as a run waits for its loss.
            if what == "gradient":
                float(gradient(objective, parameters))
            else:
                taken = optimizer.step(objective, parameters, state)
                float(taken.metrics["loss"])
            seconds[what] = time.perf_counter() - started
        parameters, state = taken.parameters, taken.state
        model_state = () if taken.model_state is None else taken.model_state
        if number >= WARM_UP:
            gradients.append(seconds["gradient"])
            steps.append(seconds["step"])
    return Cost(
        sum(steps) / sum(gradients),
        statistics.median(s / g for s, g in zip(steps, gradients, strict=True)),
        statistics.median(steps),
        statistics.median(gradients),
        rounds=rounds,
        machine=machine(),
    )


def _gradient() -> Callable[[mlhf.Objective, Any], tf.Tensor]:
    @tf.function(autograph=False)
    def gradient(objective: mlhf.Objective, parameters: Any) -> tf.Tensor:
        linearized = objective.linearize(parameters)
        # The norm is cheap and needs all of the gradient.
        return tf.linalg.global_norm(tf.nest.flatten(linearized.gradient()))

    return gradient


def measure_apart(
    problem: Mapping[str, Any],
    optimizer: str,
    setting: Mapping[str, Any],
    meta_ckpt: str | None = None,
    rounds: int = 20,
) -> Cost:
    """Measures in a separate process, whose memory is what the optimizer needs.

    Args:
      problem: The arguments of `train_val.task_families.problem_of`.
      optimizer: The line of text that `parse` reads.
      setting: Values of the tuned settings.
      meta_ckpt: The meta-optimizer, as for `parse`.
      rounds: The number of rounds, as for `measure`.

    Returns:
      The cost, with the memory of that process: libraries, data, network, optimizer.

    Raises:
      RuntimeError: If the process fails; with its last words.
    """
    arguments = {
        "problem": dict(problem),
        "optimizer": optimizer,
        "setting": dict(setting),
        "meta_ckpt": meta_ckpt,
        "rounds": rounds,
    }
    # The folder that the package is imported from; in a wheel it lies one deeper.
    root = str(Path(__file__).resolve().parents[__name__.count(".")])
    paths = [root, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise RuntimeError(f"The cost of {optimizer} could not be measured: {words[-1]}")
    lines = done.stdout.strip().splitlines() or ["nothing"]
    try:
        return Cost(**json.loads(lines[-1]))
    except (TypeError, ValueError) as error:
        raise RuntimeError(
            f"The cost of {optimizer} could not be measured: the process printed {lines[-1]!r}"
        ) from error


def main() -> None:
    """Measures the cost that the first argument describes and prints it as JSON."""
    from train_val.comparison.specifications import parse
    from train_val.task_families import problem_of

    arguments = json.loads(sys.argv[1])
    entrant = parse(arguments["optimizer"], arguments["meta_ckpt"])
    optimizer = entrant.make(arguments["setting"])
    cost = measure(problem_of(arguments["problem"]), optimizer, arguments["rounds"])
    print(json.dumps(dataclasses.asdict(dataclasses.replace(cost, peak_bytes=_peak_bytes()))))


def _peak_bytes() -> int:
    """Returns the peak memory of this process, without that of the process that started it."""
    try:
        # On Linux, ru_maxrss includes what the parent held.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Linux counts in units of 1,024 bytes, macOS in bytes.
        return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
