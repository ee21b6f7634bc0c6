"""A run that can be killed and continued: folder, checkpoints, record, bar, skipped steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlhf.runs.checkpoints import (
    CheckpointError,
    Checkpoints,
    DamagedCheckpointError,
    check_same_run,
)
from mlhf.runs.progress import ProgressBar
from mlhf.runs.run_log import RunLog
from mlhf.runs.saving import Saving

TFError = tf.errors.OpError
# After so many steps in a row that are not finite, the next ones will not be either.
LARGEST_SKIPS_IN_A_ROW = 20
NOT_AS_SAVED = (LookupError, TypeError, ValueError, AttributeError, OverflowError, TFError)


class ResumableRun:
    """Everything about a long run except what it computes.

        run = ResumableRun(folder, kind="a training", other_kind="a meta-training")
        with run.opening():
            saved = run.read(signature)
            if saved is not None:
                with run.restoring():
                    ...  # continue from what `save` wrote
        with run.going(save, steps, save_steps, save_minutes, desc="training") as bar:
            while run.goes_on:
                finite = ...  # one step
                run.count_step(finite)
                run.log.write(run.done, metrics)
                run.save_if_due()
                bar.step(loss=loss)
        run.close()

    where `save` calls `run.write(signature, content)`. Outside of `going` it refers to no function
    of its owner, so that the folder is unlocked as soon as nothing refers to the owner.

    Attributes:
      folder: The folder of the run's files; None for a run that is kept in memory.
      done: The number of steps done, those before a continuation included.
      skipped: The number of steps that were not finite.
      skipped_in_a_row: The number of steps since the last one that was finite.
      log: The record of metrics; on disk once the run is open.
      closed: Whether the run was closed.
    """

    def __init__(
        self,
        folder: str | Path | None,
        *,
        kind: str | None = None,
        other_kind: str = "",
        entry: str = "signature",
        largest_skips: int = LARGEST_SKIPS_IN_A_ROW,
        in_any_process: Callable[[bool], bool] | None = None,
    ) -> None:
        """Sets the run up; nothing is made or read before `opening`.

        Args:
          folder: The folder for checkpoints and metrics; None keeps all in memory.
          kind: The kind of run, for messages: a checkpoint without a signature is refused as one of
            `other_kind`. None accepts it.
          other_kind: The other kind of run that may have written checkpoints to the folder.
          entry: The name of the signature in a checkpoint.
          largest_skips: The number of steps in a row that are not finite after which the run has
            diverged.
          in_any_process: A function that returns whether a flag is set in any process of the run,
            which all processes call; then a signal to one of them ends all after the current step.
            None for one process.
        """
        self._in_any_process = in_any_process
        self._kind, self._other_kind, self._entry = kind, other_kind, entry
        self._largest_skips = largest_skips
        self.done, self.skipped, self.skipped_in_a_row = 0, 0, 0
        self.log = RunLog(None)
        self.closed = False
        self.folder = None if folder is None else Path(folder)
        self._at_close = contextlib.ExitStack()
        self._checkpoints: Checkpoints | None = None
        self._save: Callable[[], None] | None = None
        self._saving: Saving | None = None
        self._steps: int | None = None

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Locks the folder for this run, and opens the record of metrics after the block.

        Lines that a killed run recorded for later steps than those done are dropped. If anything
        fails, everything is closed.

        Raises:
          CheckpointError: If another run has locked the folder.
          OSError: If the folder can't be made or written to.
        """
        if self.folder is not None:
            self._checkpoints = Checkpoints(self.folder, alone=True)
            self._at_close.callback(self._checkpoints.close)
        try:
            yield
            self.log = RunLog(self.folder, self.done)
            self._at_close.callback(self.log.close)
        except BaseException:
            # The exception refers to the run's owner: the folder would stay locked.
            self.close()
            raise

    def at_close(self, close: Callable[[], None]) -> None:
        """Closes something with the run, before the folder is unlocked."""
        self._at_close.callback(close)

    def close(self) -> None:
        """Closes the files and unlocks the folder. A second call does nothing."""
        self.closed = True
        self._at_close.close()

    def read(
        self, signature: Mapping[str, Any], older: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Reads the newest checkpoint and sets `done`.

        Args:
          signature: The settings that a checkpoint must share with the run that continues it.
          older: The settings that older checkpoints lack, with the values that they had. If given,
            other settings that a checkpoint lacks, or that are not of this run, are not compared.

        Returns:
          The content of the checkpoint, or None if there is none.

        Raises:
          CheckpointError: If it is damaged or of another run.
        """
        read = None if self._checkpoints is None else self._checkpoints.read()
        if read is None:
            return None
        self.done, content = read
        saved = content.get(self._entry)
        if isinstance(saved, Mapping):
            if older is not None:
                known = {**signature, **older, **saved}
                saved = {name: known[name] for name in signature}
            place = f"The checkpoint of step {self.done} in {self.folder}"
            check_same_run(place, saved, signature)
        elif self._kind is not None:
            raise CheckpointError(
                f"Expected the checkpoints of {self._kind} in {self.folder}, found those of "
                f"something else ({self._other_kind}?); give another folder."
            )
        return content

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Turns anything that goes wrong while a checkpoint's content is restored into one error.

        Raises:
          CheckpointError: If it can't be continued from.
          DamagedCheckpointError: If something in it is missing or not as it should be.
        """
        try:
            yield
        except CheckpointError:
            raise
        except NOT_AS_SAVED as error:
            reason = f"it has no entry {error}" if isinstance(error, KeyError) else str(error)
            reason = reason.partition("\n")[0] or type(error).__name__
            raise DamagedCheckpointError(
                f"The checkpoint of step {self.done} in {self.folder} can't be continued "
                f"({reason}): another version or another run wrote it, or it was changed since. "
                "Use the version and the settings that it was made with, or choose another folder.",
                str(self.folder),
            ) from error

    @contextlib.contextmanager
    def going(
        self,
        save: Callable[[], None],
        steps: int | None,
        save_steps: int,
        save_minutes: float,
        *,
        progress: bool = True,
        **bar: Any,
    ) -> Iterator[ProgressBar]:
        """Shows a progress bar, waits for signals, and saves at the end what is not saved yet.

        Args:
          save: The function that saves the run; not called by a run that is kept in memory.
          steps: The total number of steps, those done included; None if it is unknown.
          save_steps: The number of steps between saves, as for `Saving`.
          save_minutes: The minutes between saves, as for `Saving`.
          progress: Whether the bar is shown.
          **bar: Other arguments of `ProgressBar`.

        Yields:
          The bar.
        """
        on_disk = self._checkpoints is not None
        waits = on_disk or self._in_any_process is not None
        saving = Saving(save_steps, save_minutes, done=self.done, signals=waits)
        shown = ProgressBar(total=steps, initial=self.done, disable=not progress, **bar)
        self._steps, self._saving, self._save = steps, saving, save if on_disk else lambda: None
        try:
            with shown, saving:
                yield shown
                saving.finish(self.done, self._save)
        finally:
            self._saving = self._save = None

    @property
    def goes_on(self) -> bool:
        """Whether there is another step to take."""
        if self.finished:
            return False
        agree = self._in_any_process
        return not (self.stopping if agree is None else agree(self.stopping))

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or too many of the last ones were not finite."""
        return self.diverged or (self._steps is not None and self.done >= self._steps)

    @property
    def diverged(self) -> bool:
        """Whether too many steps in a row were not finite."""
        return self.skipped_in_a_row >= self._largest_skips

    @property
    def stopping(self) -> bool:
        """Whether a signal ends the run after the current step."""
        return self._saving is not None and self._saving.stopping

    def count_step(self, finite: bool = True) -> None:
        """Counts a step, as a skipped one if it is not finite."""
        self.done += 1
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1

    def save_if_due(self) -> None:
        """Saves after a step of `going`, if it is time or if it is the last one."""
        if self._saving is not None and self._save is not None:
            self._saving.after(self.done, self._save, self.finished)

    def write(self, signature: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """Writes a checkpoint like `Checkpoints.write`, after flushing the record of metrics.

        Args:
          signature: The settings that `read` compares.
          content: The rest of what the run continues from.
        """
        if self._checkpoints is not None:
            self.log.flush()
            self._checkpoints.write(self.done, {self._entry: dict(signature), **content})
