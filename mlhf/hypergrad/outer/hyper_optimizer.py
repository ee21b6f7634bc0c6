"""The outer loop, with any method, any Keras optimizer, projections and records."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_number
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.guards import DivergedError
from mlhf.hypergrad.methods import METHODS
from mlhf.hypergrad.outer import projections as projections_module
from mlhf.hypergrad.outer.outer_optimizers import outer_optimizers
from mlhf.hypergrad.outer.records import readable_records, record_files, write_record
from mlhf.hypergrad.result import Result
from mlhf.runs.checkpoints import CheckpointError, load_like
from mlhf.runs.run import ResumableRun

ONLINE = ("rtho",)
# The sets that a dynamics' own hyperparameters are projected onto by default.
NATURAL = {
    "learning_rate": projections_module.box(0.0),
    "momentum": projections_module.box(1e-4, 0.9999),
    "beta1": projections_module.box(0.0, 0.9999),
    "beta2": projections_module.box(0.0, 0.9999),
}


class HyperOptimizer:
    """Moves hyperparameters along the hypergradients of one training after the other.

    A folder belongs to one optimizer until `close` is called, the optimizer is garbage-collected,
    or its process ends. It is a context manager that closes at its end.

    Attributes:
      hyperparameters: The current hyperparameters.
      records: A dictionary of arrays for each outer step: `hyperparameters` before it,
        `hypergradient`, `valid_loss`, and `per_step` or the arrays that `record` returned.
      result: The result of the last outer step; None before the first step and after one that was
        skipped.
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
          weights: The weights that every training begins with: a structure, a Keras model, None if
            the problem makes them, or a function from a seed to a structure.
          hyperparameters: The hyperparameters that the outer loop begins with.
          method: The name of a method of `mlhf.hypergrad`, or a function like one of them. `rtho`,
            and `truncated` with `options={"online": True}`, move the hyperparameters during each
            training by the same optimizer.
          outer_optimizer: A Keras optimizer, the rate of plain gradient descent, or a mapping from
            names to either.
          projections: Functions by name, applied to each tensor of a hyperparameter after every
            move. The dynamics' own hyperparameters have default ones: rates stay at least 0,
            momenta and betas below 1.
          process: A function from the hypergradient by name to the one that the optimizer gets,
            for example to clip it or take its signs.
          options: Further arguments of the method.
          seed: The seed of the first training.
          new_seeds: Whether every training has the next seed, so that the hyperparameters do not
            fit one initialisation or one order of batches. The seed is passed to `weights`, to
            losses, `initial` and suppliers of batches with a parameter `seed`, and to
            `Minibatches`.
          folder: The folder for checkpoints, records and the log; none by default. There is no
            checkpoint before the first outer step that was not skipped.
          checkpoint_every: The number of outer steps from one checkpoint to the next. Ctrl-C and
            SIGTERM end `run` after the current outer step, with a checkpoint.
          checkpoint_minutes: The largest number of minutes between checkpoints; 0 for no limit.
          most_skips: The largest number of outer steps in a row that may be skipped because
            training or adjoint diverged.
          largest_norm_growth: The growth of the norm of the hypergradient over the smallest so far
            that ends the loop, since training has become chaotic. None for never.
          record: A function from a result to more arrays for the records, by name.
          record_per_step: Whether `Result.per_step` is recorded.

        Raises:
          ValueError: If a name is unknown, or a count is not positive.
          CheckpointError: If another run uses the folder, or its checkpoint is damaged, or belongs
            to a run with another method, outer optimizer, seed, dynamics, number of steps, or other
            hyperparameters.
          OSError: If the folder cannot be written to.
        """
        if isinstance(method, str):
            if method not in METHODS:
                raise ValueError(f"Expected method= one of {tuple(METHODS)}, got {method!r}.")
            self._name, self._method = method, METHODS[method]
        else:
            self._name, self._method = getattr(method, "__name__", "method"), method
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
        self._every = checkpoint_every
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
        self._optimizers = outer_optimizers(outer_optimizer, self.hyperparameters)
        self._smallest = float("inf")
        self._moved = False  # whether an outer step was not skipped
        self.records: list[dict[str, Any]] = []
        self._later_records: list[Path] = []
        self.result: Result | None = None
        self._run = ResumableRun(folder, largest_skips=most_skips + 1)
        with self._run.opening():
            self._signature = self._sign()
            saved = self._run.read(self._signature)
            files = {} if self._run.folder is None else record_files(self._run.folder)
            self._later_records = [path for n, path in files.items() if n > self.step]
            if saved is not None:
                with self._run.restoring():
                    self._restore(saved)
                self.records = readable_records([p for n, p in files.items() if n <= self.step])

    @property
    def step(self) -> int:
        """The number of outer steps done."""
        return self._run.done

    def close(self) -> None:
        """Releases the folder; `run` raises from then on. A second call does nothing."""
        self._run.close()

    def __enter__(self) -> HyperOptimizer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def run(self, steps: int | Iterable[Any], *, progress: bool = False) -> dict[str, Any]:
        """Takes outer steps.

        Args:
          steps: The total number of outer steps, including those before a continuation; or an
            iterable with an item for each outer step, such as a generator that looks at `records`
            and ends when it has seen enough.
          progress: Whether to show a progress bar.

        Returns:
          The hyperparameters.

        Raises:
          DivergedError: If more than `most_skips` outer steps in a row diverged.
          ValueError: If the optimizer was closed.
        """
        if self._run.closed:
            raise ValueError(
                "Expected an open HyperOptimizer, got one that was closed; make it anew, and it "
                "continues from its folder."
            )
        todo = range(self.step, steps) if isinstance(steps, int) else steps
        total = steps if isinstance(steps, int) else None
        often = (self._every, self._minutes)
        going = self._run.going(
            self._save, total, *often, progress=progress, desc=self._name, unit="outer step"
        )
        with going as bar:
            for _ in todo:
                norm = self._outer_step()
                bar.show(**self._shown(), norm=f"{norm:.3g}")
                bar.step()
                grew = self._growth is not None and norm > self._growth * self._smallest
                self._smallest = min(self._smallest, norm)
                self._run.save_if_due()
                if grew or self._run.stopping:
                    break
        return self.hyperparameters

    def _outer_step(self) -> float:
        started = time.perf_counter()
        seed = self._seed + self.step if self._new_seeds else self._seed
        weights = self._weights(seed) if self._makes_weights() else self._weights
        before = self.hyperparameters
        options = {**self._options, **({"update": self._move} if self._online else {})}
        saved = [optimizer.state() for optimizer in self._optimizers.values()]
        try:
            result = self._method(self._problem, weights, before, seed=seed, **options)
        except DivergedError as error:
            for optimizer, state in zip(self._optimizers.values(), saved, strict=True):
                optimizer.restore(state)
            self._run.count_step(finite=False)
            self.result = None
            if self._run.diverged:
                raise
            self._run.log.write(self.step, {"skipped": 1, "reason": str(error)})
            self._keep({"hyperparameters": before, "skipped": True})
            return float("nan")
        self._moved = True
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
        self._run.count_step()
        self._run.log.write(self.step, metrics)
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
        moved = {
            name: optimizer(hyper[name], gradient[name])
            for name, optimizer in self._optimizers.items()
        }
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
        if self._run.folder is not None:
            if self._later_records:
                # From a run that was killed after its last checkpoint; these steps are repeated.
                for path in self._later_records:
                    path.unlink(missing_ok=True)
                self._later_records = []
            write_record(self._run.folder, self.step, record)

    def _save(self) -> None:
        # Before the first step that was not skipped there is nothing to continue, and another start
        # can be tried in the same folder.
        if self._moved:
            content = {
                "hyperparameters": self.hyperparameters,
                "optimizers": {
                    name: optimizer.state() for name, optimizer in self._optimizers.items()
                },
                "skips": self._run.skipped_in_a_row,
                "smallest": min(self._smallest, 1e300),
            }
            self._run.write(self._signature, content)

    def _sign(self) -> dict[str, Any]:
        """Returns the settings that must agree with the run that is continued, as plain values."""
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
                f"outer_optimizer of {name}": _text(optimizer.settings())
                for name, optimizer in self._optimizers.items()
            },
        }

    def _restore(self, content: dict[str, Any]) -> None:
        self._moved = True
        try:
            shaped = tf.nest.map_structure(
                lambda saved, like: np.reshape(saved, like.shape),
                content["hyperparameters"],
                self.hyperparameters,
            )
            self.hyperparameters = load_like(self.hyperparameters, shaped, "hyperparameters")
            for name, optimizer in self._optimizers.items():
                kept = list(content["optimizers"][name])
                load_like(optimizer.state(), kept, f"the optimizer of {name}")
                optimizer.restore(kept)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"Expected in {self._run.folder} a checkpoint of the hyperparameters "
                f"{sorted(self.hyperparameters)} and their optimizer, found another: {reason} "
                "Choose another folder to begin again."
            ) from error
        self._run.skipped_in_a_row = int(content["skips"])
        smallest = float(content["smallest"])
        self._smallest = smallest if smallest < 1e300 else float("inf")


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str).replace('"', "")
