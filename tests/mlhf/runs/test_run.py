"""A run on nothing but a counter: what it saves, continues, refuses and leaves to others."""

import gc
import os
import signal

import numpy as np
import pytest

from mlhf.runs import checkpoints
from mlhf.runs.checkpoints import CheckpointError, Checkpoints
from mlhf.runs.run import LARGEST_SKIPS_IN_A_ROW, ResumableRun

KINDS = {"kind": "a count", "other_kind": "a sum"}


class Count:
    """Adds its numbers; those that are not finite are skipped."""

    def __init__(self, folder, signature=None, older=None, **options):
        self.signature, self.total = signature or {"seed": 1}, 0.0
        self.run = ResumableRun(folder, **{**KINDS, **options})
        with self.run.opening():
            saved = self.run.read(self.signature, older)
            if saved is not None:
                with self.run.restoring():
                    self.total = float(saved["total"])

    def save(self):
        self.run.write(self.signature, {"total": np.float64(self.total)})

    def go(self, numbers, steps=None, every=2, at=None):
        steps = len(numbers) if steps is None else steps
        with self.run.going(self.save, steps, every, 0.0, progress=False) as bar:
            while self.run.goes_on:
                number = numbers[self.run.done]
                self.run.count_step(bool(np.isfinite(number)))
                self.total += number if np.isfinite(number) else 0
                self.run.log.write(self.run.done, {"total": self.total})
                if self.run.done == at:
                    os.kill(os.getpid(), signal.SIGTERM)
                bar.step(total=self.total)
                self.run.save_if_due()
        return self.total


def count(folder, numbers, **arguments):
    counting = Count(folder)
    try:
        return counting.go(numbers, **arguments)
    finally:
        counting.run.close()


def test_it_saves_and_continues(tmp_path):
    assert count(tmp_path, [1.0, 2.0, 3.0]) == 6
    assert Checkpoints(tmp_path).steps() == [2, 3]
    counting = Count(tmp_path)
    assert (counting.run.done, counting.total) == (3, 6)
    assert counting.go([0.0] * 3 + [4.0, 5.0], every=9) == 15
    counting.run.close()
    counting.run.close()
    assert counting.run.closed and Checkpoints(tmp_path).steps() == [3, 5]
    assert [line["total"] for line in counting.run.log.lines] == [1, 3, 6, 10, 15]
    assert count(None, [1.0, 2.0]) == 3


def test_the_number_of_checkpoints_is_one_constant(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINTS_KEPT", 3)
    count(tmp_path, [1.0] * 6, every=1)
    assert Checkpoints(tmp_path).steps() == [4, 5, 6]


def test_a_signal_ends_it_saved_and_what_follows_the_checkpoint_is_done_again(tmp_path):
    with pytest.raises(SystemExit) as ended:
        count(tmp_path, [1.0] * 9, every=9, at=4)
    assert ended.value.code == 143 and Checkpoints(tmp_path).steps() == [4]
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 5, "total": 99}\n')
    counting = Count(tmp_path)
    assert [line["step"] for line in counting.run.log.lines] == [1, 2, 3, 4]
    counting.run.close()


def test_too_many_skips_in_a_row_end_it(tmp_path):
    numbers = [np.nan] * 3 + [1.0] + [np.nan] * 30
    counting = Count(tmp_path)
    assert counting.go(numbers) == 1 and counting.run.diverged
    assert counting.run.done == 4 + LARGEST_SKIPS_IN_A_ROW
    assert counting.run.skipped == 3 + LARGEST_SKIPS_IN_A_ROW
    # The last step is saved, whatever its number.
    assert Checkpoints(tmp_path).steps()[-1] == counting.run.done
    counting.run.close()
    counting = Count(None, largest_skips=2)
    counting.go(numbers)
    assert counting.run.done == 2


def test_a_folder_of_another_run_is_refused_and_left_free(tmp_path):
    count(tmp_path, [1.0])
    with pytest.raises(CheckpointError, match="step 1 .* another run .seed: expected 2, found 1"):
        Count(tmp_path, {"seed": 2})
    with pytest.raises(CheckpointError, match="rate: expected 3, found None"):
        Count(tmp_path, {"seed": 1, "rate": 3})
    # Older than a setting, which was this then.
    with pytest.raises(CheckpointError, match="rate: expected 3, found 2"):
        Count(tmp_path, {"seed": 1, "rate": 3}, older={"rate": 2})
    Count(tmp_path, {"seed": 1, "rate": 3}, older={}).run.close()
    Checkpoints(tmp_path).write(2, {"total": np.float64(1)})
    with pytest.raises(CheckpointError, match=r"of a count in .* something else \(a sum\?\)"):
        Count(tmp_path)
    Count(tmp_path, kind=None).run.close()
    Checkpoints(tmp_path).write(3, {"signature": {"seed": 1}})
    with pytest.raises(CheckpointError, match="step 3 in .* can't be continued .*no entry 'total'"):
        Count(tmp_path)


def test_the_folder_is_its_alone_until_nothing_refers_to_the_owner(tmp_path):
    gc.disable()
    try:
        counting = Count(tmp_path)
        counting.go([1.0, 2.0])
        with pytest.raises(CheckpointError, match="Another run uses"):
            Count(tmp_path)
        del counting
        Count(tmp_path).run.close()
    finally:
        gc.enable()


def test_what_was_opened_with_it_closes_before_the_folder_is_free(tmp_path):
    counting = Count(tmp_path)

    def close():
        with pytest.raises(CheckpointError, match="Another run uses"):
            Count(tmp_path)
        closed.append(True)

    closed = []
    counting.run.at_close(close)
    counting.run.close()
    assert closed == [True]
    Count(tmp_path).run.close()
