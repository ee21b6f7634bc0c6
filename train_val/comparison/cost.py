"""What a step costs: in gradients, measured in turns with them, and in memory."""

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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlhf.optimizers.protocol import complete
from train_val.problems.problem import Problem

# Steps before the clock runs: tracing, and what an optimizer does more often at the start.
WARM_UP = 4


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a step costs.

    Attributes:
      gradients: The mean time of a step by that of a gradient of the same batch size.
      median: The median over the rounds of a step's time by the gradient's beside it; below
        `gradients` where some steps do more than others (K-FAC's inversions).
      step_seconds: The median time of a step.
      gradient_seconds: That of a gradient.
      peak_bytes: The most memory that the process held; only of a process of its own.
      rounds: How many it was measured in; None where that was not kept.
      machine: Where, as `machine()` says it; likewise.
    """

    gradients: float
    median: float
    step_seconds: float
    gradient_seconds: float
    peak_bytes: int | None = None
    rounds: int | None = None
    machine: str | None = None

    @classmethod
    def read(cls, found: Any) -> Cost | None:
        """Returns the cost that a structure of JSON describes; None if it describes none."""
        try:
            cost = cls(**found)
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
        """Whether it is of this machine and so many rounds, or it is not known of what."""
        return (self.rounds is None or self.rounds >= rounds) and self.machine in (None, machine())


def machine() -> str:
    """Returns what the time of a step depends on."""
    gpu = ", GPU" if tf.config.list_physical_devices("GPU") else ""
    return f"{os.cpu_count()} cores, {platform.machine()}{gpu}, TensorFlow {tf.__version__}"


def measure(problem: Problem, optimizer: Any, rounds: int = 20) -> Cost:
    """Times steps and gradients in turns, so that a disturbance meets both.

    Args:
      problem: What is trained.
      optimizer: With `init` and `step`.
      rounds: A gradient and a step each. 20 hold one of K-FAC's inversions.

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
        # Each goes first in every other round: the pipeline of the batches disturbs who does.
        order = ("gradient", "step") if number % 2 else ("step", "gradient")
        seconds = {}
        for what in order:
            started = time.perf_counter()
            # One number of the result is waited for, as a run waits for its loss.
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


def _gradient() -> Any:
    @tf.function(autograph=False)
    def gradient(objective, parameters):
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
    """Measures in a process of its own, which knows how much memory the optimizer needs.

    Args:
      problem: As for `train_val.task_families.problem_of`.
      optimizer: As for `parse`.
      setting: Values of the tuned settings.
      meta_ckpt: As for `parse`.
      rounds: As for `measure`.

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
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "train_val.comparison.cost", json.dumps(arguments)],
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
    """Measures what the first argument describes and prints it as JSON."""
    from train_val.comparison.specifications import parse
    from train_val.task_families import problem_of

    arguments = json.loads(sys.argv[1])
    entrant = parse(arguments["optimizer"], arguments["meta_ckpt"])
    optimizer = entrant.make(arguments["setting"])
    cost = measure(problem_of(arguments["problem"]), optimizer, arguments["rounds"])
    print(json.dumps(dataclasses.asdict(dataclasses.replace(cost, peak_bytes=_peak_bytes()))))


def _peak_bytes() -> int:
    """Returns the most memory that this process has held, and not the one that started it."""
    try:
        # Linux' ru_maxrss begins with what the parent held.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Linux counts in units of 1,024 bytes, macOS in bytes.
        return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
