"""Meta-training of a step's controller, by evolution strategies over whole trainings."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_executor, check_number
from mlhf.checks.structures import kind
from mlhf.meta_optimizer.meta_muon import MetaMuon
from mlhf.meta_optimizer.step_controller import ControllerWeights
from mlhf.meta_training.antithetic_pairs import LARGEST_LOSS, SMALLEST_LOSS
from mlhf.meta_training.arguments import check_callbacks, tasks_of
from mlhf.meta_training.evolution import FIRST_SEED
from mlhf.meta_training.scan import scan
from mlhf.meta_training.steps import MetaTraining, Steps
from mlhf.meta_training.strategy import ALL, LINEAR, Strategy
from mlhf.runs.run import ResumableRun
from mlhf.task import Task

# The name of the learned controller in the folder of a run.
FILE_IN_FOLDER = "controller.npz"
METHOD = "evolution strategies over whole trainings"
# What a loss half-way counts beside the last.
_HALF_WAY = 0.25


def evolve_controller(
    task: Task | Sequence[Task],
    optimizer: MetaMuon,
    steps: int,
    *,
    horizon: int | Sequence[int] | None = None,
    deviation: float = 0.1,
    meta_lr: float = 0.4,
    layers: str = "linear",
    seeds: int = 8,
    seed: int = 0,
    model_dir: str | Path | None = None,
    save_steps: int = 10,
    save_minutes: float = 5.0,
    progress: bool = True,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
    executor: Any = None,
) -> MetaTraining[MetaMuon]:
    """Meta-trains the controller of a `mlhf.MetaMuon`.

    With θ its weights, an update has two whole trainings for each task, with θ + σε and θ - σε,
    ε ~ N(0, 1), from the same initial weights and on the same batches. The side with the lower loss
    shows where to go: the difference of the logarithms of the losses, three quarters those of the
    last tenth of the steps and a quarter those half-way, times ε/2, averaged over tasks, each in
    units of its usual difference (Salimans et al. 2017, arXiv 1703.03864). Adam follows.

    Losses are those of the batches before each step; they count as at most twice the first loss,
    and so does one that is not finite. With a `model_dir`, a run that was killed continues from its
    last checkpoint; Ctrl-C and SIGTERM end it after the current update, with a checkpoint.

    Args:
      task: The task that is trained; or several, all of which an update trains.
      optimizer: The optimizer, whose weights are trained in place. Those that ship are a start;
        `MetaMuon(T, weights="neutral")` begins from nothing.
      steps: The total number of updates, those of a continued run included.
      horizon: T, the steps of a training: one number, or one for each task; None for the
        optimizer's.
      deviation: σ.
      meta_lr: Adam's step, in units of σ.
      layers: The weights that are learned: `"linear"`, the 80 numbers of the maps beside the LSTM,
        or `"all"`. Choose the first where updates are few.
      seeds: The number of different initial weights and batches for each task; an update draws one.
      seed: The seed of the perturbations.
      model_dir: The folder for checkpoints, metrics and the controller, `controller.npz`; None
        keeps all in memory.
      save_steps: The number of updates between checkpoints; there is one at the end, too.
      save_minutes: The minutes between checkpoints, if they are over first; 0 for never.
      progress: Whether a progress bar is shown.
      on_step: A function that is called after each update, with their number and the metrics.
      executor: Anything with `map(function, *iterables)`, which runs the trainings of an update at
        once and gives the same numbers, as for `mlhf.evolve`.

    Returns:
      The optimizer and the metrics: `log_loss` (the mean over tasks and sides of what is compared),
      `difference` (the mean of the absolute differences), `grad_length`, `seconds`.

    Raises:
      TypeError: If the optimizer is not a MetaMuon, or the executor has no `map`.
      ValueError: If an argument makes no sense, or a training begins with a loss that is not above
        0.
      CheckpointError: If `model_dir` has a checkpoint of something else.
      OSError: If `model_dir` can't be written.
    """
    check_callbacks(on_step=on_step)
    check_executor(executor)
    if not isinstance(optimizer, MetaMuon):
        raise TypeError(f"Expected a MetaMuon to meta-train, got {kind(optimizer)}.")
    tasks = tasks_of(task)
    if not tasks:
        raise ValueError("Expected a task, or several, got none.")
    check_count("steps", steps)
    check_count("seeds", seeds)
    check_number("meta_lr", meta_lr, at_least=0)
    learned = {"linear": LINEAR, "all": ALL}[check_choice("layers", layers, ("linear", "all"))]
    horizons = _horizons(optimizer.horizon if horizon is None else horizon, len(tasks))
    strategy = Strategy(optimizer.weights, learned, check_number("deviation", deviation, above=0))
    mark = uuid.uuid4().hex
    pairs = zip(tasks, horizons, strict=True)
    trainings = [WholeTraining(*pair, optimizer, mark) for pair in pairs]
    signature = {
        "task": "; ".join(one.name for one in tasks),
        "method": METHOD,
        "horizons": str(horizons),
        "deviation": deviation,
        "meta_lr": meta_lr,
        "layers": layers,
        "seeds": seeds,
        "seed": check_count("seed", seed, 0),
        "every": optimizer.every,
        "curvature_share": optimizer.curvature_share,
    }
    run = ResumableRun(model_dir, kind="a meta-training", other_kind="the training of a network")
    evolution = _Evolution(
        run,
        optimizer,
        strategy,
        trainings,
        signature,
        executor,
        steps=steps,
        often=(save_steps, save_minutes),
    )
    try:
        return evolution.go(progress, on_step)
    finally:
        run.close()
        _TRACED.pop(mark, None)


def _horizons(horizon: int | Sequence[int], tasks: int) -> list[int]:
    horizons = list(horizon) if isinstance(horizon, Sequence) else [horizon] * tasks
    if len(horizons) != tasks:
        raise ValueError(f"Expected a horizon for each of {tasks} tasks, got {len(horizons)}.")
    return [check_count("horizon", one) for one in horizons]


class WholeTraining:
    """A task's training from the first step to the last, by an optimizer with given weights.

    A process that gets copies of it traces the training once, and keeps the trainings of one run.
    """

    def __init__(self, task: Task, horizon: int, optimizer: MetaMuon, run: str = "") -> None:
        """Sets a training up.

        Args:
          task: The task.
          horizon: T, the number of steps.
          optimizer: The optimizer, whose settings besides T are used.
          run: What tells the meta-training that it belongs to from others; by default a training
            on its own.
        """
        task.check_rollouts()
        self.task, self.horizon = task, horizon
        self._settings = {
            name: getattr(optimizer, name) for name in ("every", "curvature_share", "excluded")
        }
        self._run, self._mark = run or uuid.uuid4().hex, uuid.uuid4().hex

    def __call__(self, weights: ControllerWeights, number: int) -> float:
        """Returns what a training comes to: logarithms of its losses.

        Args:
          weights: The controller's weights.
          number: The number of the initial weights and of the batches.

        Raises:
          ValueError: If it begins with a loss that is not above 0, or the batches end.
        """
        parameters = self.task.initialize(FIRST_SEED + number)
        batches = next(iter(self.task.rollout_batches(number * self.horizon, self.horizon)), None)
        if batches is None:
            raise ValueError(
                f"The batches of the task {self.task.name!r} ended before number "
                f"{(number + 1) * self.horizon}; let batches(k) repeat its data."
            )
        losses = self._function()(
            ControllerWeights(*map(tf.constant, weights)),
            parameters,
            self.task.initial_model_state(),
            batches,
        )
        return self._score(losses.numpy().astype(float))

    def _function(self) -> Callable[..., tf.Tensor]:
        """Returns the compiled training, which threads and copies of this object share."""
        with _LOCK:
            if _TRACED.keys() != {self._run}:
                _TRACED.clear()
            functions = _TRACED.setdefault(self._run, {})
            if self._mark not in functions:
                functions[self._mark] = self._traced()
            return functions[self._mark]

    def _score(self, losses: np.ndarray) -> float:
        if not (math.isfinite(losses[0]) and losses[0] > 0):
            raise ValueError(
                f"Expected losses above 0, whose logarithms are compared, got {losses[0]} at the "
                f"start of a training of the task {self.task.name!r}: take another loss."
            )
        largest = LARGEST_LOSS * losses[0]
        losses = np.clip(np.where(np.isfinite(losses), losses, largest), SMALLEST_LOSS, largest)
        window, middle = max(1, self.horizon // 10), self.horizon // 2
        last = math.log(losses[-window:].mean())
        half = math.log(losses[max(0, middle - window) : middle + 1].mean())
        return (1 - _HALF_WAY) * last + _HALF_WAY * half

    def _traced(self) -> Callable[..., tf.Tensor]:
        """Returns the compiled function of a training, which returns its losses, [T]."""
        optimizer = MetaMuon(self.horizon, weights="neutral", **self._settings)

        def training(weights: Any, parameters: Any, model_state: Any, batches: Any) -> tf.Tensor:
            def step(t: Any, carry: Any) -> tuple[Any, tf.Tensor]:
                parameters, state, model_state = carry
                inputs, targets = tf.nest.map_structure(lambda part: part[t], batches)
                objective = self.task.objective(inputs, targets, model_state)
                parameters, state, after, metrics = optimizer.step_in(
                    objective, parameters, state, weights
                )
                return (parameters, state, after or model_state), metrics["loss"]

            dtype = tf.nest.flatten(parameters)[0].dtype
            carry = parameters, optimizer.init(parameters), model_state
            _, losses = scan(step, carry, self.horizon, tf.TensorSpec([], dtype))
            return losses.stacked()

        return tf.function(training, autograph=False)


# The compiled trainings of this process: those of one run, by their marks.
_TRACED: dict[str, dict[str, Callable[..., tf.Tensor]]] = {}
_LOCK = threading.Lock()


def _run(training: WholeTraining, weights: ControllerWeights, number: int) -> float:
    return training(weights, number)


class _Evolution(Steps[MetaMuon]):
    """Updates by the estimate, and the files of the run."""

    description, unit = "evolution", "update"

    def __init__(
        self,
        run: ResumableRun,
        optimizer: MetaMuon,
        strategy: Strategy,
        trainings: Sequence[WholeTraining],
        signature: dict[str, Any],
        executor: Any,
        *,
        steps: int,
        often: tuple[int, float],
    ) -> None:
        self.began, self.run, self.optimizer = time.perf_counter(), run, optimizer
        self.steps, self.often = steps, often
        self._strategy, self._trainings = strategy, trainings
        self._signature, self._executor = signature, executor
        with run.opening():
            saved = run.read(signature)
            if saved is not None:
                with run.restoring():
                    strategy.restore(saved["strategy"])

    def next_step(self) -> dict[str, Any]:
        """Takes an update."""
        started = time.perf_counter()
        strategy, run = self._strategy, self.run
        random = np.random.default_rng([self._signature["seed"], run.done])
        tasks = len(self._trainings)
        noises = random.standard_normal([tasks, strategy.deviations.size])
        numbers = random.integers(0, self._signature["seeds"], tasks)
        sides = [side for noise in noises for side in strategy.sides(noise)]
        arguments = (
            [training for training in self._trainings for _ in range(2)],
            sides,
            [int(number) for number in numbers for _ in range(2)],
        )
        mapped: Iterable[float] = (
            map(_run, *arguments)
            if self._executor is None
            else self._executor.map(_run, *arguments)
        )
        scores = np.array(list(mapped)).reshape(tasks, 2)
        gaps = np.clip(scores[:, 0] - scores[:, 1], -1.0, 1.0)
        gradient = strategy.estimate(noises, gaps)
        strategy.follow(gradient, self._signature["meta_lr"])
        run.count_step()
        return {
            "log_loss": float(scores.mean()),
            "difference": float(np.abs(gaps).mean()),
            "grad_length": float(np.linalg.norm(gradient)),
            "seconds": time.perf_counter() - started,
        }

    def shown(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Returns the mean of what is compared."""
        return {"log_loss": f"{metrics['log_loss']:.3f}"}

    def save(self) -> None:
        """Writes a checkpoint, and then the controller."""
        self.run.write(self._signature, {"strategy": self._strategy.state()})
        self.publish()

    def hand_over(self) -> None:
        """Gives the optimizer the controller."""
        self.optimizer.weights = self._strategy.weights

    def publish(self) -> None:
        """Gives the optimizer the controller, and writes it to the folder of the run."""
        self.hand_over()
        if self.run.folder is not None:
            self.optimizer.save(self.run.folder / FILE_IN_FOLDER)
