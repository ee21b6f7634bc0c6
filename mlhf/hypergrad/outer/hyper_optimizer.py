"""The outer loop: any method's hypergradient, any Keras optimizer, projections, records."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from mlhf.checks.arguments import check_number
from mlhf.hypergrad import projections as projections_module
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.guards import DivergedError
from mlhf.hypergrad.outer.outer_optimizers import movers
from mlhf.hypergrad.result import Result
from mlhf.runs.checkpoints import CheckpointError, Checkpoints, check_same_run, load_like, restoring
from mlhf.runs.progress import ProgressBar
from mlhf.runs.run_log import RunLog
from mlhf.runs.saving import Saving
from replay import (
    UnreadableFileError,
    read_structure,
    write_structure,
)

_RECORD = re.compile(r"record-(\d{6,})\.npz")
METHODS = ("reverse", "reversible", "drmad", "truncated", "forward", "rtho", "implicit")
ONLINE = ("rtho",)
# Where a dynamics' own hyperparameters stay unless the user says otherwise.
NATURAL = {
    "learning_rate": projections_module.box(0.0),
    "momentum": projections_module.box(1e-4, 0.9999),
    "beta1": projections_module.box(0.0, 0.9999),
    "beta2": projections_module.box(0.0, 0.9999),
}


class HyperOptimizer:
    """Moves hyperparameters along the hypergradients of one training after the other.

    A folder is one optimizer's alone until `close`, until nothing refers to the optimizer any more,
    or until its process ends. It is a context manager that closes at its end.

    Attributes:
      hyperparameters: As they stand.
      step: Outer steps done.
      records: A dictionary of arrays an outer step: `hyperparameters` before it, `hypergradient`,
        `valid_loss`, and `per_step` or what `record` returned.
      result: That of the last outer step; None before the first and after one that was skipped.
    """

    def __init__(
        self,
        problem: Any,
        weights: Any,
        hyperparameters: Any,
        *,
        method: str | Callable[..., Result] = "reverse",
        outer_optimizer: Any = 1e-3,
        projections: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] | None = None,
        process: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        new_seeds: bool = True,
        folder: str | Path | None = None,
        checkpoint_every: int = 1,
        checkpoint_minutes: float = 5.0,
        most_skips: int = 5,
        largest_norm_growth: float | None = None,
        record: Callable[[Result], Mapping[str, Any]] | None = None,
        record_per_step: bool = False,
    ):
        """Sets up the outer loop; continues from `folder` where it has a checkpoint.

        Args:
          problem: A `Problem`.
          weights: What every training begins with: a structure, a Keras model, None where the
            problem makes them, or a function from a seed to a structure.
          hyperparameters: Where the outer loop begins.
          method: The name of a method of `mlhf.hypergrad`, or a function like one of them. `rtho`,
            and `truncated` with `options={"online": True}`, move the hyperparameters during each
            training by the same optimizer.
          outer_optimizer: A Keras optimizer, the rate of plain gradient descent, or a mapping from
            names to either.
          projections: By name, applied to each tensor of a hyperparameter after every move. The
            dynamics' own have natural ones: rates stay at least 0, momenta and betas below 1.
          process: From the hypergradient by name to what the optimizer gets, such as clipped or its
            signs.
          options: What else the method gets.
          seed: Of the first training.
          new_seeds: Whether every training has the next seed, so that nothing is learned of one
            initialisation or one order of batches. It reaches `weights` and what has a parameter
            `seed`: losses, `initial` and suppliers of batches; and `Minibatches`.
          folder: Where checkpoints, records and the log are kept; nowhere by default. There is no
            checkpoint before the first outer step that was not skipped.
          checkpoint_every: Outer steps from one checkpoint to the next. Ctrl-C and SIGTERM end
            `run` after the outer step under way, with a checkpoint.
          checkpoint_minutes: Minutes after which there is one, if they are over first; 0 for never.
          most_skips: How many outer steps in a row may be skipped because training or adjoint
            diverged.
          largest_norm_growth: Ends the loop when the norm of the hypergradient exceeds the smallest
            so far by this factor: the sign that training has become chaotic. None for never.
          record: From a result to more arrays for the records, by name.
          record_per_step: Whether `Result.per_step` is recorded.

        Raises:
          ValueError: If a name is not known, or a count not positive.
          CheckpointError: If another run has the folder, or its checkpoint is damaged, or of a run
            with another method, outer optimizer, seed, dynamics, number of steps, or other
            hyperparameters.
          OSError: If the folder cannot be written to.
        """
        from mlhf import hypergrad

        if isinstance(method, str):
            if method not in METHODS:
                raise ValueError(f"Expected method= one of {METHODS}, got {method!r}.")
            self._name = method
            self._method: Callable[..., Result] = getattr(hypergrad, method)
        else:
            self._name = getattr(method, "__name__", "method")
            self._method = method
        if checkpoint_every < 1 or most_skips < 0:
            raise ValueError(
                "Expected checkpoint_every >= 1 and most_skips >= 0, got "
                f"{checkpoint_every} and {most_skips}."
            )
        options = dict(options or {})
        self._online = options.pop("online", False) or self._name in ONLINE
        self._problem, self._weights = problem, weights
        self._options, self._process = options, process
        self._seed, self._new_seeds = seed, new_seeds
        self._every, self._most_skips = checkpoint_every, most_skips
        self._minutes = check_number("checkpoint_minutes", checkpoint_minutes, at_least=0)
        self._growth, self._record, self._record_per_step = (
            largest_norm_growth,
            record,
            record_per_step,
        )
        first = weights(seed) if self._makes_weights() else weights
        _, _, self.hyperparameters = bind(problem, first, hyperparameters)
        names = sorted(self.hyperparameters)
        natural = {name: p for name, p in NATURAL.items() if name in problem.dynamics.constants}
        self._projections = {**natural, **(projections or {})}
        unknown = set(projections or {}) - set(names)
        if unknown:
            raise ValueError(f"Expected projections for {names}, got {sorted(unknown)}.")
        self._movers = movers(outer_optimizer, self.hyperparameters)
        self.step, self._skips, self._smallest = 0, 0, float("inf")
        self._moved = False  # whether an outer step was not skipped
        self.records: list[dict[str, Any]] = []
        self._later_records: list[Path] = []
        self.result: Result | None = None
        self._folder = Path(folder) if folder is not None else None
        self._closed = False
        self._checkpoints = None
        if self._folder is not None:
            self._checkpoints = Checkpoints(self._folder, alone=True)
        try:
            self._signature = self._sign()
            self._restore()
            self._log = RunLog(self._folder, self.step)
        except BaseException:
            # What is raised refers to this object: its folder would stay taken.
            if self._checkpoints is not None:
                self._checkpoints.close()
            raise

    def close(self) -> None:
        """Leaves the folder to others; `run` raises from then on. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._log.close()
            if self._checkpoints is not None:
                self._checkpoints.close()

    def __enter__(self) -> HyperOptimizer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def run(self, steps: int | Iterable[Any], *, progress: bool = False) -> dict[str, Any]:
        """Takes outer steps.

        Args:
          steps: How many there are to be in the end, those before a continuation included; or an
            iterable, such as a generator that looks at `records` and ends when it has seen enough:
            one outer step is taken an item.
          progress: Whether a bar shows how far it is.

        Returns:
          The hyperparameters.

        Raises:
          DivergedError: If more than `most_skips` outer steps in a row diverged.
          ValueError: If it was closed.
        """
        if self._closed:
            raise ValueError(
                "Expected an open HyperOptimizer, got one that was closed; make it anew, and it "
                "continues from its folder."
            )
        todo = range(self.step, steps) if isinstance(steps, int) else steps
        total = steps if isinstance(steps, int) else None
        bar = ProgressBar(
            total=total, initial=self.step, disable=not progress, desc=self._name, unit="outer step"
        )
        kept = self._checkpoints is not None
        saving = Saving(self._every, self._minutes, done=self.step, signals=kept)
        with bar, saving:
            for _ in todo:
                norm = self._outer_step()
                bar.show(**self._shown(), norm=f"{norm:.3g}")
                bar.step()
                grew = self._growth is not None and norm > self._growth * self._smallest
                self._smallest = min(self._smallest, norm)
                saving.after(self.step, self._save)
                if grew or saving.stopping:
                    break
            saving.finish(self.step, self._save)
        return self.hyperparameters

    def _outer_step(self) -> float:
        started = time.perf_counter()
        seed = self._seed + self.step if self._new_seeds else self._seed
        weights = self._weights(seed) if self._makes_weights() else self._weights
        before = self.hyperparameters
        options = {**self._options, **({"update": self._move} if self._online else {})}
        saved = [mover.state() for mover in self._movers.values()]
        try:
            result = self._method(self._problem, weights, before, seed=seed, **options)
        except DivergedError as error:
            for mover, state in zip(self._movers.values(), saved, strict=True):
                mover.restore(state)
            self._skips += 1
            self.step += 1
            self.result = None
            if self._skips > self._most_skips:
                raise
            self._log.write(self.step, {"skipped": 1, "reason": str(error)})
            self._keep({"hyperparameters": before, "skipped": True})
            return float("nan")
        self._skips, self._moved = 0, True
        self.result = result
        gradient = result.hypergradient
        self.hyperparameters = (
            result.hyperparameters if self._online else self._move(before, gradient)
        )
        norm = float(tf.linalg.global_norm(tf.nest.flatten(gradient)))
        losses = result.valid_loss if isinstance(result.valid_loss, Mapping) else None
        metrics = {
            "skipped": 0,
            "hypergradient_norm": norm,
            "seconds": time.perf_counter() - started,
            **(losses or {"valid_loss": result.valid_loss}),
        }
        if result.train_loss is not None:
            metrics["last_train_loss"] = result.train_loss[-1]
        for name, value in before.items():
            if not tf.nest.is_nested(value) and value.shape.num_elements() == 1:
                metrics[name] = tf.reshape(value, [])
        self.step += 1
        self._log.write(self.step, metrics)
        record: dict[str, Any] = {
            "hyperparameters": before,
            "hypergradient": gradient,
            "valid_loss": result.valid_loss,
            "skipped": False,
        }
        if self._record_per_step:
            record["per_step"] = result.per_step
        if self._record is not None:
            record.update(self._record(result))
        self._keep(record)
        return norm

    def _move(self, hyper: dict[str, Any], gradient: dict[str, Any]) -> dict[str, Any]:
        if self._process is not None:
            gradient = self._process(gradient)
        moved = {name: mover(hyper[name], gradient[name]) for name, mover in self._movers.items()}
        for name, project in self._projections.items():
            if name in moved:
                moved[name] = tf.nest.map_structure(project, moved[name])
        return moved

    def _makes_weights(self) -> bool:
        from mlhf.models import keras_models

        return callable(self._weights) and not keras_models.is_model(self._weights)

    def _shown(self) -> dict[str, str]:
        value = self.result.valid_loss if self.result is not None else None
        if value is None or isinstance(value, Mapping):
            return {}
        return {"valid_loss": f"{float(value):.4g}"}

    def _keep(self, record: dict[str, Any]) -> None:
        record = tf.nest.map_structure(
            lambda value: np.asarray(value) if tf.is_tensor(value) else value,
            {"step": self.step, **record},
        )
        self.records.append(record)
        if self._folder is not None:
            if self._later_records:
                # Of a run that was killed after its last checkpoint: those steps are done again.
                for path in self._later_records:
                    path.unlink(missing_ok=True)
                self._later_records = []
            write_structure(self._folder / f"record-{self.step:06d}.npz", record)

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        # Before the first step that counts nothing is learned: there is nothing to continue, and
        # another start can be tried in the same folder.
        if not self._moved:
            return
        self._checkpoints.write(
            self.step,
            {
                "signature": self._signature,
                "hyperparameters": self.hyperparameters,
                "optimizers": {name: mover.state() for name, mover in self._movers.items()},
                "skips": self._skips,
                "smallest": min(self._smallest, 1e300),
            },
        )

    def _sign(self) -> dict[str, Any]:
        """What a run must have in common with the one that it continues, as plain values."""
        shapes = tf.nest.map_structure(
            lambda leaf: f"{leaf.dtype.name} {leaf.shape}", self.hyperparameters
        )
        return {
            "method": self._name,
            "dynamics": repr(self._problem.dynamics),
            "steps": self._problem.steps,
            "seed": int(self._seed),
            "new_seeds": bool(self._new_seeds),
            **{f"hyperparameter {name}": _text(shape) for name, shape in shapes.items()},
            **{
                f"outer_optimizer of {name}": _text(mover.settings())
                for name, mover in self._movers.items()
            },
        }

    def _restore(self) -> None:
        if self._checkpoints is None or self._folder is None:
            return
        found = self._checkpoints.read()
        step, content = (0, None) if found is None else found
        paths = _record_files(self._folder)
        self._later_records = [path for number, path in paths.items() if number > step]
        if content is None:
            return
        self._moved = True
        # Those of older versions have none.
        if isinstance(content.get("signature"), Mapping):
            place = f"The checkpoint of step {step} in {self._folder}"
            check_same_run(place, content["signature"], self._signature)
        try:
            shaped = tf.nest.map_structure(
                lambda saved, like: np.reshape(saved, like.shape),
                content["hyperparameters"],
                self.hyperparameters,
            )
            self.hyperparameters = load_like(self.hyperparameters, shaped, "hyperparameters")
            for name, mover in self._movers.items():
                kept = list(content["optimizers"][name])
                load_like(mover.state(), kept, f"the optimizer of {name}")
                mover.restore(kept)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"Expected in {self._folder} a checkpoint of the hyperparameters "
                f"{sorted(self.hyperparameters)} and their optimizer, found another: {reason} "
                "Choose another folder to begin again."
            ) from error
        with restoring(self._folder, step):
            self.step, self._skips = step, int(content["skips"])
            smallest = float(content["smallest"])
        self._smallest = smallest if smallest < 1e300 else float("inf")
        self.records = _sound_records([path for n, path in paths.items() if n <= step])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str).replace('"', "")


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """Reads the records of a run.

    Args:
      folder: The run's.

    Returns:
      A dictionary of arrays for each outer step, in order.

    Raises:
      DamagedFileError: If one is damaged or something else.
    """
    return [read_structure(path) for path in _record_files(Path(folder)).values()]


def _record_files(folder: Path) -> dict[int, Path]:
    """Returns the files of records by outer step, ascending."""
    found = ((_RECORD.fullmatch(path.name), path) for path in folder.glob("record-*.npz"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def _sound_records(paths: list[Path]) -> list[dict[str, Any]]:
    """Reads records; nothing that is to come depends on them, so that a damaged one is left out."""
    records = []
    for path in paths:
        try:
            record = read_structure(path)
            if not isinstance(record, dict) or not {"step", "skipped"} <= set(record):
                raise UnreadableFileError(f"{path} is not the record of an outer step.", str(path))
            records.append(record)
        except UnreadableFileError as error:
            tqdm.write(f"Left out: {error}")
    return records
