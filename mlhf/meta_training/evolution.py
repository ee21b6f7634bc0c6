"""Meta-training by persistent evolution strategies: long horizons, at the price of evaluations.

Backpropagation through a rollout (`mlhf.meta_training.backpropagation`) sees no further than the
rollout and follows a surrogate of two losses. Evolution minimises what a user wants to be small,
the training loss over a whole stretch of training, and differentiates nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from mlhf.checks.arguments import check_choice, check_count, check_executor, check_number
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_training import adam
from mlhf.meta_training.antithetic_pairs import AntitheticPair, Particles
from mlhf.meta_training.arguments import check_callbacks, check_learnable, tasks_of
from mlhf.meta_training.meta_run import EVOLUTION, MetaRun
from mlhf.meta_training.particles_apart import ParticlesApart
from mlhf.meta_training.rollout import Carry
from mlhf.meta_training.steps import MetaTraining
from mlhf.runs import run_log
from mlhf.runs.checkpoints import finite_numbers, load_like
from mlhf.task import Task

# A gradient is clipped to this multiple of the median length of the last ones.
LARGEST_LENGTH, REMEMBERED = 2.0, 50
# The trainings' initial weights have seeds that nothing else uses.
FIRST_SEED = 1_000_000


def evolve(
    task: Task | Sequence[Task],
    optimizer: MetaHessianFree,
    steps: int,
    *,
    roll_back: int = 10,
    horizon: int = 100,
    pairs: int = 4,
    deviation: float = 0.05,
    meta_lr: float | Callable[[int], float] = 1e-2,
    learn_rate: bool = True,
    layers: str = "all",
    seed: int = 0,
    model_dir: str | Path | None = None,
    save_steps: int = 100,
    save_minutes: float = 5.0,
    progress: bool = True,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
    executor: Any = None,
) -> MetaTraining[MetaHessianFree]:
    """Meta-trains an optimizer by persistent evolution strategies (PES).

    With θ the LSTMs' weights (and the logarithm of the learning rate), each of `pairs` pairs of
    trainings takes `roll_back` steps with θ + ε and with θ - ε, ε ~ N(0, σ²), from where it stands,
    both on the same batches. With L± the mean logarithm of the losses in these steps and ξ the sum
    of a pair's perturbations since its training began,

        g = mean over pairs of ξ (L₊ - L₋) / (2 σ²)

    is an estimate of the gradient of the smoothed loss over the whole horizon, not of the last
    `roll_back` steps (Vicol, Metz and Sohl-Dickstein 2021, arXiv 2112.13835, with
    antithetic pairs). Adam takes it, clipped to twice the median length of the last 50. After
    `horizon` steps a pair begins again with new initial weights; the pairs are at different ages.

    Steps are those of `optimizer.step`, without the noise and the bound on their length that
    `meta_train` has. Losses are those of the batches before each step; they count as at most twice
    the first loss of their training, and so does one that is not finite.

    Several tasks take turns, one for each update; each has its own pairs. A kind of variable that a
    task does not have gets no gradient from it; weights are drawn for kinds for which the optimizer
    has none.

    With a `model_dir`, a run that was killed continues from its last checkpoint. Ctrl-C and SIGTERM
    end it after the current update, with a checkpoint.

    Args:
      task: The task that is trained; or several, of one dtype.
      optimizer: The optimizer, whose weights, and with `learn_rate` its `learning_rate`, are
        trained in place.
      steps: The total number of updates, those of a continued run included.
      roll_back: T, the steps of a pair between updates.
      horizon: The steps of a training, a multiple of `roll_back`.
      pairs: The number of pairs for each task.
      deviation: σ.
      meta_lr: Adam's step size, or a function of the number of updates done.
      learn_rate: Whether the learning rate is learned too.
      layers: The weights of the LSTMs that are learned: `"all"`, or `"output"`, only their dense
        layers of 5 numbers. The noise of an estimate grows with how many numbers are perturbed, 277
        or 5 for each role and kind, so choose the output first where updates are few.
      seed: The seed of the perturbations and initial weights.
      model_dir: The folder for checkpoints, metrics and the trained optimizer; None keeps all in
        memory.
      save_steps: The number of updates between checkpoints; there is one at the end, too.
      save_minutes: The minutes between checkpoints, if they are over first; 0 for never.
      progress: Whether a progress bar is shown.
      on_step: A function that is called after each update, with their number and the metrics.
      executor: Anything with `map(function, *iterables)`, which trains the 2 · `pairs` particles of
        an update at once and gives the same numbers: a `ThreadPoolExecutor` of
        `concurrent.futures`, or, for tasks of functions, `mlhf.distribute.ProcessExecutor` or
        `RayExecutor`, to which the task is sent with each particle. None trains one after another.

    Returns:
      The trained optimizer and the metrics: `loss` (the mean over pairs and steps), `log_loss`,
      `difference` (the mean |L₊ - L₋|), `grad_length`, `var_length`, `rate` (the learning rate),
      `age` (of the pairs, on average), `learning_rate` (Adam's), `seconds`.

    Raises:
      TypeError: If the executor has no `map`.
      ValueError: If an argument makes no sense, nothing is learned, or a training begins with a
        loss that is not above 0.
      CheckpointError: If `model_dir` has a checkpoint of something else.
      OSError: If `model_dir` can't be written.
    """
    check_callbacks(on_step=on_step)
    check_count("horizon", horizon)
    if horizon % check_count("roll_back", roll_back):
        raise ValueError(
            f"Expected a horizon that is a multiple of roll_back={roll_back}, got {horizon}."
        )
    run = _Evolution(
        tasks_of(task),
        optimizer,
        steps=check_count("steps", steps),
        roll_back=roll_back,
        horizon=horizon,
        pairs=check_count("pairs", pairs),
        deviation=check_number("deviation", deviation, above=0),
        meta_lr=meta_lr if callable(meta_lr) else check_number("meta_lr", meta_lr, at_least=0),
        learn_rate=learn_rate,
        layers=check_choice("layers", layers, ("all", "output")),
        seed=check_count("seed", seed, 0),
        executor=check_executor(executor),
        model_dir=model_dir,
        often=(save_steps, save_minutes),
    )
    try:
        return run.go(progress, on_step)
    finally:
        run.run.close()


class _Evolution(MetaRun[Particles]):
    """Updates by the estimate, and the particles that it is computed from."""

    method, description, unit = EVOLUTION, "evolution", "update"

    def __init__(
        self,
        tasks: Sequence[Task],
        optimizer: MetaHessianFree,
        *,
        horizon: int,
        pairs: int,
        deviation: float,
        learn_rate: bool,
        layers: str,
        seed: int,
        executor: Any,
        **common: Any,
    ) -> None:
        check_learnable(tasks, optimizer)
        super().__init__(
            tasks,
            optimizer,
            lambda task, _: Particles(task, optimizer, FIRST_SEED),
            seed=seed,
            first_seed=FIRST_SEED,
            **common,
        )
        self._horizon, self._pairs, self._deviation = horizon, pairs, deviation
        self._learn_rate, self._layers = learn_rate, layers
        # The lengths of the last gradients, before they were clipped.
        self._begun, self._lengths = 0, list[float]()
        self._log_rate = tf.constant(math.log(float(optimizer.learning_rate)), self.dtype)
        self._moments = adam.init(self._theta())
        self._mask = self._learned_numbers()
        for particles in self.trainings:
            particles.kinds = self.kinds
            for number in range(pairs):
                # Ages are spread: the pairs' first trainings end at different ones.
                turns = max(1, round(horizon / self.length * (number + 1) / pairs))
                particles.pairs.append(self._begin(particles, self.length * turns))
        self._executor = executor
        if executor is not None:
            self._apart = [ParticlesApart(one, FIRST_SEED) for one in self.trainings]
        with self.run.opening():
            saved = self.read()
            if saved is not None:
                self.take_over(saved)
        if saved is not None and "lengths" not in saved:
            self._take_lengths_from_the_log()

    def _theta(self) -> tuple[dict[str, LSTMWeights], tf.Tensor]:
        """Returns the meta-parameters; the last of all their numbers is the rate's logarithm."""
        return self.weights, self._log_rate

    def _learned_numbers(self) -> np.ndarray:
        """Returns ones at the numbers of θ that are learned, and zeros at the others."""

        def ones(value: tf.Tensor, learned: bool) -> np.ndarray:
            return np.full(value.shape, float(learned))

        masks = {
            role: LSTMWeights(
                *[
                    ones(value, self._layers == "all" or name.startswith("dense"))
                    for name, value in weights._asdict().items()
                ]
            )
            for role, weights in self.weights.items()
        }
        return _flat((masks, ones(self._log_rate, self._learn_rate)))

    def _begin(self, particles: Particles, horizon: int) -> AntitheticPair:
        self._begun += 1
        carries = particles.begin(FIRST_SEED + 1000 * self.seed + self._begun)
        return AntitheticPair(carries, np.zeros(self._mask.size), horizon)

    def _unflat(self, vector: np.ndarray) -> Any:
        like = tf.nest.flatten(self._theta())
        parts = np.split(vector, np.cumsum([leaf.shape.num_elements() for leaf in like])[:-1])
        leaves = [
            tf.constant(part.reshape(leaf.shape), self.dtype)
            for part, leaf in zip(parts, like, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._theta(), leaves)

    def next_batches(self, number: int, turn: int) -> Any:
        return self.trainings[number].batches(turn, self.length)

    def step(self, number: int, batches: Any) -> dict[str, Any]:
        """Takes one update from all pairs of a task."""
        pairs, here = self.trainings[number].pairs, self._theta()
        gradient = np.zeros(self._mask.size)
        losses, logs, differences, ages = [], [], [], []
        noises = [
            self._deviation * self._mask * self.generator.standard_normal(self._mask.size)
            for _ in pairs
        ]
        trained = iter(self._trained(number, noises, batches))
        for place, (pair, noise) in enumerate(zip(pairs, noises, strict=True)):
            pair.accumulated_perturbation = pair.accumulated_perturbation + noise
            scores = []
            for side in (0, 1):
                pair.carries[side], along = next(trained)
                along = self.trainings[number].bounded(pair, along)
                scores.append(np.log(along).mean())
                losses.append(along.mean())
            differences.append(abs(scores[0] - scores[1]))
            logs.append(np.mean(scores))
            gradient += (
                pair.accumulated_perturbation * (scores[0] - scores[1]) / (2 * self._deviation**2)
            )
            pair.age += self.length
            ages.append(pair.age)
            if pair.age >= pair.horizon:
                pairs[place] = self._begin(self.trainings[number], self._horizon)
        gradient /= len(pairs)
        length = float(np.linalg.norm(gradient))
        if self._lengths:
            # One training that diverges would otherwise outweigh hundreds of updates.
            usual = float(np.median(self._lengths))
            gradient *= min(1.0, LARGEST_LENGTH * usual / max(length, 1e-30))
        self._lengths = [*self._lengths, length][-REMEMBERED:]
        rate = self.meta_lr(self.run.done)
        moved, self._moments = adam.update(
            here, self._unflat(gradient), self._moments, tf.constant(rate, self.dtype)
        )
        self.weights, self._log_rate = moved
        self.run.count_step()
        return {
            "loss": np.mean(losses),
            "log_loss": np.mean(logs),
            "difference": np.mean(differences),
            "grad_length": length,
            "var_length": float(tf.linalg.global_norm(tf.nest.flatten(self.weights))),
            "rate": math.exp(float(self._log_rate)),
            "age": np.mean(ages),
            "learning_rate": rate,
        }

    def _trained(
        self, number: int, noises: Sequence[np.ndarray], batches: Any
    ) -> Iterable[tuple[Carry, np.ndarray]]:
        """Yields the carries and losses of all particles of a task, pair by pair."""
        particles, here = self.trainings[number], self._theta()
        thetas = [
            tf.nest.map_structure(lambda a, b: a + b, here, self._unflat(sign * noise))
            for noise in noises
            for sign in (1, -1)
        ]
        carries = [carry for pair in particles.pairs for carry in pair.carries]
        weights, rates = zip(*[(one, tf.exp(log_rate)) for one, log_rate in thetas], strict=True)
        if self._executor is not None:
            return self._apart[number].map(self._executor, carries, weights, rates, batches)
        return (
            particles.advance(*each, batches) for each in zip(carries, weights, rates, strict=True)
        )

    def shown(self, metrics: dict[str, Any]) -> dict[str, Any]:
        return {"loss": f"{metrics['loss']:.3f}", "rate": f"{metrics['rate']:.3g}"}

    def hand_over(self) -> None:
        super().hand_over()
        if self._learn_rate:
            self.optimizer.learning_rate = math.exp(float(self._log_rate))

    def signature(self) -> dict[str, Any]:
        rate = float(self.optimizer.learning_rate)
        return {
            **super().signature(),
            **({} if self._learn_rate else {"learning_rate": rate}),
            "horizon": self._horizon,
            "pairs": self._pairs,
            "deviation": self._deviation,
            "learn_rate": self._learn_rate,
            "layers": self._layers,
            "parameters": str([particles.layout.signature for particles in self.trainings]),
        }

    def state(self) -> dict[str, Any]:
        return {
            "log_rate": self._log_rate,
            "adam": {
                "step": self._moments.step,
                "first": _flat(self._moments.first),
                "second": _flat(self._moments.second),
            },
            "generator": json.dumps(self.generator.bit_generator.state),
            "begun": self._begun,
            "lengths": np.array(self._lengths),
            **{
                f"pair-{i}-{j}": particles.state(pair)
                for i, particles in enumerate(self.trainings)
                for j, pair in enumerate(particles.pairs)
            },
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self._begun = int(saved["begun"])
        self._log_rate = load_like(self._log_rate, saved["log_rate"], "log_rate")
        moments = saved["adam"]
        flat = tf.constant(_flat(self._moments.first))
        first, second = (load_like(flat, moments[name], name) for name in ("first", "second"))
        self._moments = adam.AdamState(
            tf.constant(moments["step"], tf.int64),
            self._unflat(first.numpy()),
            self._unflat(second.numpy()),
        )
        self.generator.bit_generator.state = json.loads(saved["generator"])
        self._lengths = finite_numbers(saved.get("lengths", ()), "lengths")
        for i, particles in enumerate(self.trainings):
            for j, pair in enumerate(particles.pairs):
                particles.restore(pair, saved[f"pair-{i}-{j}"])

    def _take_lengths_from_the_log(self) -> None:
        """Restores what older checkpoints do not hold; exact if the log is whole."""
        lines = {line["step"]: line.get("grad_length") for line in self.run.log.lines}
        wanted = range(max(1, self.run.done - REMEMBERED + 1), self.run.done + 1)
        values = [lines.get(step) for step in wanted]
        self._lengths = [float(value) for value in values if isinstance(value, float)]
        if len(self._lengths) < len(wanted):
            tqdm.tqdm.write(
                f"The checkpoint of step {self.run.done} is of before checkpoints held the lengths "
                f"of the last gradients, and {run_log.FILE} has {len(self._lengths)} of "
                f"{len(wanted)}: gradients are clipped by those, and the run may end with other "
                "numbers than one that was not interrupted."
            )


def _flat(structure: Any) -> np.ndarray:
    return np.concatenate([np.reshape(leaf, -1) for leaf in tf.nest.flatten(structure)])
