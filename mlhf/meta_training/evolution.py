"""Meta-training by persistent evolution strategies: long horizons, at the price of evaluations.

Backpropagation through a rollout (`mlhf.meta_training.backpropagation`) sees as far as the rollout
and follows a surrogate of two losses. Here what is minimised is what a user wants, the training
loss over a whole stretch of training, and nothing is differentiated.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from mlhf.checks.arguments import check_choice, check_count, check_number
from mlhf.meta_optimizer import weights_file
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_training import adam
from mlhf.meta_training.meta_run import (
    EVOLUTION,
    MetaTraining,
    check_callbacks,
    check_learnable,
    check_signature,
    common_dtype,
    tasks_of,
)
from mlhf.meta_training.perturbed_pairs import Field, Pair
from mlhf.runs import run_log
from mlhf.runs.checkpoints import Checkpoints, finite_numbers, load_like, restoring
from mlhf.runs.progress import ProgressBar
from mlhf.runs.run_log import RunLog
from mlhf.runs.saving import Saving
from mlhf.task import Task, draw_missing_weights

# A gradient is clipped to this multiple of the median length of the last ones.
LARGEST_LENGTH, REMEMBERED = 2.0, 50
# Initial weights of trainings that begin during meta-training, apart from those of anything else.
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
) -> MetaTraining:
    """Meta-trains an optimizer by persistent evolution strategies (PES).

    With θ the LSTMs' weights (and the logarithm of the learning rate), each of `pairs` pairs of
    trainings takes `roll_back` steps with θ + ε and with θ - ε, ε ~ N(0, σ²), from where it stands,
    both on the same batches. With L± the mean logarithm of the losses along these steps and ξ the
    sum of a pair's perturbations since its training began,

        g = mean over pairs of ξ (L₊ - L₋) / (2 σ²)

    is an estimate of the gradient of the smoothed loss over the whole horizon, not of the last
    `roll_back` steps (Vicol, Metz and Sohl-Dickstein 2021, arXiv 2112.13835, with
    antithetic pairs). Adam takes it, clipped to twice the median length of the last 50. After
    `horizon` steps a pair begins again with new initial weights; the pairs are at different ages.

    Steps are those of `optimizer.step`: without the noise and the bound on their length that
    `meta_train` has. Losses are those of the batches before each step, at most twice the first of
    their training; one that is not finite counts as that.

    Of several tasks each update takes one, in turns; each has pairs of its own. A kind of variable
    that a task does not have gets no gradient from it; one that the optimizer has no weights for is
    drawn new.

    With a `model_dir`, a run that was killed continues from its last checkpoint. Ctrl-C and SIGTERM
    end it after the update under way, with a checkpoint.

    Args:
      task: What is trained; or several, of one dtype.
      optimizer: Its weights, and its `learning_rate` with `learn_rate`, are trained in place.
      steps: Updates in all, those of a continued run included.
      roll_back: T, the steps of a pair between updates.
      horizon: The steps of a training, a multiple of `roll_back`.
      pairs: Of each task.
      deviation: σ.
      meta_lr: Adam's step size, or a function of the number of updates done.
      learn_rate: Whether the learning rate is learned too.
      layers: Which of the LSTMs' weights are learned: `"all"`, or `"output"`, their dense layers of
        5 numbers alone. The noise of an estimate grows with how many numbers are perturbed, 277 or
        5 a role and kind, so the output goes first where updates are few.
      seed: Of perturbations and initial weights.
      model_dir: Where checkpoints, metrics and the trained optimizer go; None keeps all in memory.
      save_steps: A checkpoint every so many updates, and at the end.
      save_minutes: A checkpoint after so many minutes, if they are over first; 0 for never.
      progress: Whether a progress bar is shown.
      on_step: Called with the updates done and the metrics, after each.

    Returns:
      The trained optimizer and the metrics: `loss` (the mean over pairs and steps), `log_loss`,
      `difference` (the mean |L₊ - L₋|), `grad_length`, `var_length`, `rate` (the learning rate),
      `age` (of the pairs, on average), `learning_rate` (Adam's), `seconds`.

    Raises:
      ValueError: If an argument makes no sense, nothing is learned, or a training begins with a
        loss that is not above 0.
      CheckpointError: If `model_dir` holds a checkpoint of something else.
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
        check_count("steps", steps),
        length=roll_back,
        horizon=horizon,
        pairs=check_count("pairs", pairs),
        deviation=check_number("deviation", deviation, above=0),
        meta_lr=meta_lr if callable(meta_lr) else check_number("meta_lr", meta_lr, at_least=0),
        learn_rate=learn_rate,
        layers=check_choice("layers", layers, ("all", "output")),
        seed=check_count("seed", seed, 0),
        model_dir=model_dir,
        often=(save_steps, save_minutes),
    )
    try:
        return run.go(progress, on_step)
    finally:
        run.close()


class _Evolution:
    def __init__(
        self,
        tasks,
        optimizer,
        steps,
        *,
        length,
        horizon,
        pairs,
        deviation,
        meta_lr,
        learn_rate,
        layers,
        seed,
        model_dir,
        often,
    ):
        self.began = time.perf_counter()
        check_learnable(tasks, optimizer)
        self.optimizer, self.steps, self.length, self.horizon = optimizer, steps, length, horizon
        self.deviation, self.seed, self.often = deviation, seed, often
        self.meta_lr = meta_lr if callable(meta_lr) else lambda _: meta_lr
        self.learn_rate, self.layers = learn_rate, layers
        draw_missing_weights(tasks, optimizer, FIRST_SEED)
        self.fields = [Field(task, optimizer, FIRST_SEED) for task in tasks]
        self.dtype = common_dtype([field.layout for field in self.fields])
        self.kinds = sorted({kind for field in self.fields for kind in field.layout.kinds})
        for field in self.fields:
            field.kinds = self.kinds
        self.weights = optimizer.weights_of(self.kinds, self.dtype)
        self.log_rate = tf.constant(math.log(float(optimizer.learning_rate)), self.dtype)
        self.moments = adam.init(self._theta())
        self.shapes = [tuple(leaf.shape) for leaf in tf.nest.flatten(self._theta())]
        self.mask = self._mask()
        self.size = self.mask.size
        self.generator = np.random.default_rng(seed)
        self.done, self.begun = 0, 0
        # The lengths of the last gradients, before they were clipped.
        self.lengths: list[float] = []
        for field in self.fields:
            for number in range(pairs):
                # Ages are spread: the first training of each pair ends at another one.
                first = length * max(1, round(horizon / length * (number + 1) / pairs))
                field.pairs.append(self._begin(field, first))
        self.log = RunLog(None)
        self.checkpoints = None if model_dir is None else Checkpoints(model_dir, alone=True)
        try:
            saved = None if self.checkpoints is None else self.checkpoints.read()
            if self.checkpoints is not None and saved is not None:
                check_signature(self.checkpoints.folder, *saved, self._signature())
                with restoring(self.checkpoints.folder, saved[0]):
                    self._restore(*saved)
            self.log = RunLog(model_dir, self.done)
            if saved is not None and "lengths" not in saved[1]:
                self._take_lengths_from_the_log()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.log.close()
        if self.checkpoints is not None:
            self.checkpoints.close()

    def _theta(self) -> tuple[dict[str, LSTMWeights], tf.Tensor]:
        """The meta-parameters; of their numbers in a row the last is the logarithm of the rate."""
        return self.weights, self.log_rate

    def _mask(self) -> np.ndarray:
        """Ones at the numbers of θ that are learned, zeros at the others."""

        def ones(value, learned):
            return np.full(value.shape, float(learned))

        masks = {
            role: LSTMWeights(
                *[
                    ones(value, self.layers == "all" or name.startswith("dense"))
                    for name, value in weights._asdict().items()
                ]
            )
            for role, weights in self.weights.items()
        }
        return _flat((masks, ones(self.log_rate, self.learn_rate)))

    def _begin(self, field: Field, horizon: int) -> Pair:
        self.begun += 1
        carries = field.begin(FIRST_SEED + 1000 * self.seed + self.begun)
        return Pair(carries, np.zeros(self.size), horizon)

    def _unflat(self, vector: np.ndarray) -> Any:
        parts = np.split(vector, np.cumsum([int(np.prod(s)) for s in self.shapes])[:-1])
        leaves = [
            tf.constant(part.reshape(shape), self.dtype)
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._theta(), leaves)

    def go(self, progress, on_step) -> MetaTraining:
        first = math.nan
        bar = ProgressBar(
            total=self.steps,
            initial=self.done,
            disable=not progress,
            unit="update",
            desc="evolution",
        )
        saving = Saving(*self.often, done=self.done, signals=self.checkpoints is not None)
        # Also when it is interrupted: what was learned is the caller's.
        with contextlib.ExitStack() as stack:
            stack.enter_context(bar)
            stack.callback(self._hand_over)
            stack.enter_context(saving)
            while self.done < self.steps and not saving.stopping:
                turn, number = divmod(self.done, len(self.fields))
                started = time.perf_counter()
                metrics = self._update(self.fields[number], turn)
                if len(self.fields) > 1:
                    metrics["task"] = number
                metrics["seconds"] = time.perf_counter() - started
                if math.isnan(first):
                    first = time.perf_counter() - self.began
                self.log.write(self.done, metrics)
                if on_step is not None:
                    on_step(self.done, metrics)
                bar.step(loss=f"{metrics['loss']:.3f}", rate=f"{metrics['rate']:.3g}")
                saving.after(self.done, self._save, self.done == self.steps)
            saving.finish(self.done, self._save)
        self._publish()
        return MetaTraining(self.optimizer, self.log.lines, 0, first, steps=self.done)

    def _update(self, field: Field, turn: int) -> dict[str, Any]:
        batches = field.batches(turn, self.length)
        here = self._theta()
        gradient = np.zeros(self.size)
        losses, logs, differences, ages = [], [], [], []
        for place, pair in enumerate(field.pairs):
            noise = self.deviation * self.mask * self.generator.standard_normal(self.size)
            pair.drift = pair.drift + noise
            scores = []
            for side, sign in enumerate((1, -1)):
                weights, log_rate = tf.nest.map_structure(
                    lambda a, b: a + b, here, self._unflat(sign * noise)
                )
                found = field.train(pair, side, weights, tf.exp(log_rate), batches)
                scores.append(np.log(found).mean())
                losses.append(found.mean())
            differences.append(abs(scores[0] - scores[1]))
            logs.append(np.mean(scores))
            gradient += pair.drift * (scores[0] - scores[1]) / (2 * self.deviation**2)
            pair.age += self.length
            ages.append(pair.age)
            if pair.age >= pair.horizon:
                field.pairs[place] = self._begin(field, self.horizon)
        gradient /= len(field.pairs)
        length = float(np.linalg.norm(gradient))
        if self.lengths:
            # One training that diverges would else outweigh hundreds of updates.
            usual = float(np.median(self.lengths))
            gradient *= min(1.0, LARGEST_LENGTH * usual / max(length, 1e-30))
        self.lengths = [*self.lengths, length][-REMEMBERED:]
        rate = self.meta_lr(self.done)
        moved, self.moments = adam.update(
            here, self._unflat(gradient), self.moments, tf.constant(rate, self.dtype)
        )
        self.weights, self.log_rate = moved
        self.done += 1
        return {
            "loss": np.mean(losses),
            "log_loss": np.mean(logs),
            "difference": np.mean(differences),
            "grad_length": length,
            "var_length": float(tf.linalg.global_norm(tf.nest.flatten(self.weights))),
            "rate": math.exp(float(self.log_rate)),
            "age": np.mean(ages),
            "learning_rate": rate,
        }

    def _hand_over(self) -> None:
        self.optimizer.set_weights(self.kinds, self.weights)
        if self.learn_rate:
            self.optimizer.learning_rate = math.exp(float(self.log_rate))

    def _publish(self) -> None:
        self._hand_over()
        if self.checkpoints is not None:
            self.optimizer.save(self.checkpoints.folder / weights_file.FILE_IN_FOLDER)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        self.log.flush()
        content: dict[str, Any] = {
            "signature": self._signature(),
            "weights": {role: w._asdict() for role, w in self.weights.items()},
            "log_rate": self.log_rate,
            "adam": {
                "step": self.moments.step,
                "first": _flat(self.moments.first),
                "second": _flat(self.moments.second),
            },
            "generator": json.dumps(self.generator.bit_generator.state),
            "begun": self.begun,
            "lengths": np.array(self.lengths),
        }
        for i, field in enumerate(self.fields):
            for j, pair in enumerate(field.pairs):
                content[f"pair-{i}-{j}"] = field.state(pair)
        self.checkpoints.write(self.done, content)
        self._publish()

    def _restore(self, step: int, saved: dict[str, Any]) -> None:
        self.done, self.begun = step, int(saved["begun"])
        found = {role: LSTMWeights(**saved["weights"][role]) for role in self.weights}
        self.weights = load_like(self.weights, found, "weights")
        self.log_rate = load_like(self.log_rate, saved["log_rate"], "log_rate")
        kept = saved["adam"]
        flat = tf.constant(_flat(self.moments.first))
        first, second = (load_like(flat, kept[name], name) for name in ("first", "second"))
        self.moments = adam.AdamState(
            tf.constant(kept["step"], tf.int64),
            self._unflat(first.numpy()),
            self._unflat(second.numpy()),
        )
        self.generator.bit_generator.state = json.loads(saved["generator"])
        self.lengths = finite_numbers(saved.get("lengths", ()), "lengths")
        for i, field in enumerate(self.fields):
            for j, pair in enumerate(field.pairs):
                field.restore(pair, saved[f"pair-{i}-{j}"])

    def _take_lengths_from_the_log(self) -> None:
        """For checkpoints of before they held them: exact where the log is whole."""
        lines = {line["step"]: line.get("grad_length") for line in self.log.lines}
        wanted = range(max(1, self.done - REMEMBERED + 1), self.done + 1)
        found = [lines.get(step) for step in wanted]
        self.lengths = [float(value) for value in found if isinstance(value, float)]
        if len(self.lengths) < len(wanted):
            tqdm.tqdm.write(
                f"The checkpoint of step {self.done} is of before checkpoints held the lengths of "
                f"the last gradients, and {run_log.FILE} has {len(self.lengths)} of "
                f"{len(wanted)}: gradients are clipped by those, and the run may end with other "
                "numbers than one that was not interrupted."
            )

    def _signature(self) -> dict[str, Any]:
        """What a checkpoint has to share with the run that continues it."""
        rate = float(self.optimizer.learning_rate)
        fixed_rate = {} if self.learn_rate else {"learning_rate": rate}
        return {
            **fixed_rate,
            "meta_lr": float(self.meta_lr(0)),
            "method": EVOLUTION,
            "task": "; ".join(field.task.name for field in self.fields),
            "rule": self.optimizer.rule.signature,
            "damping": float(self.optimizer.damping),
            "roll_back": self.length,
            "horizon": self.horizon,
            "pairs": len(self.fields[0].pairs),
            "deviation": self.deviation,
            "learn_rate": self.learn_rate,
            "layers": self.layers,
            "seed": self.seed,
            "kinds": str(self.kinds),
            "parameters": str([field.layout.signature for field in self.fields]),
            "dtype": self.dtype.name,
        }


def _flat(structure: Any) -> np.ndarray:
    return np.concatenate([np.reshape(leaf, -1) for leaf in tf.nest.flatten(structure)])
