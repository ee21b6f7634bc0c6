"""One rule for the ends of all commands."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.train_val.commands import DIGITS, ROOT, run, start
from train_val import train_meta_optimizer, use_meta_optimizer
from train_val.cli import running, signals
from train_val.cli.exit_statuses import DivergedError, UsageError
from train_val.training import loop

ENDS = {
    "trouble": (ValueError("Expected a file."), 1, "Expected a file.\n"),
    "diverged": (DivergedError("It diverged."), 1, "It diverged.\n"),
    "usage": (UsageError("Expected another flag."), 2, "Expected another flag.\n"),
    "interrupted": (KeyboardInterrupt(), 130, "Interrupted. The same command continues"),
}


@pytest.mark.parametrize("error, status, text", ENDS.values(), ids=ENDS)
def test_what_is_raised_becomes_a_status(error, status, text, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        running.guarded(main)
    code = end.value.code
    # A text as the code is printed by Python, with status 1.
    assert (1 if isinstance(code, str) else code) == status
    printed = capsys.readouterr().err or f"{end.value}\n"
    assert printed.startswith(text)


def test_sigterm_is_143(capsys):
    with pytest.raises(SystemExit) as end:
        running.guarded(lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5))
    assert end.value.code == 143
    assert "Terminated. The same command continues" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_ctrl_c_ends_at_once():
    stubborn = """
import time
from train_val.cli import running
def main():
    ready = "ready"
    while True:
        # The first signal may come as soon as the word is out: it is said where it is survived.
        try:
            if ready:
                print(ready, flush=True)
            time.sleep(60)
        except BaseException:
            ready = ""
running.guarded(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", stubborn],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    # Two signals at once may arrive as one: the second waits until the first was heard.
    heard = ""
    while "Ctrl-C: ending after the step under way" not in heard:
        line = process.stderr.readline()
        assert line, f"it ended after the first: {heard}"
        heard += line
    # What comes within this time counts as the same request: a terminal and its shell both send.
    time.sleep(2 * signals._ONE_REQUEST_SECONDS)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Ended at once" in err


def test_a_training_that_diverged_ends_with_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        flags = ("--optimizer=SGD", "--lr=1e4", "--max_steps=6", f"--model_dir={tmp_path}")
        run(use_meta_optimizer, *DIGITS, *flags)
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert "6 steps: loss on 750 training images" in out  # the report stands all the same
    assert "Training diverged: the loss on batches rose from" in err


def test_what_counts_as_diverged():
    def sentence(*losses, end=1.0, early=False):
        history = [{"loss": loss} for loss in losses]
        result = loop.TrainingResult({}, None, (), history, len(losses), 0, early, 0.1, end)
        return use_meta_optimizer.diverged(result)

    assert sentence(2.3, 2.1, 1.9) is None
    # One bad batch, and a start that is bumpy, are no divergence.
    assert sentence(2.3, 2.1, 90.0, 1.9, 1.8) is None and sentence(2.3, 15.0) is None
    assert sentence() is None
    assert "rose from 2.3 to 90" in sentence(2.3, 50.0, 80.0, 90.0, 1e3, None)
    assert "its loss is nan" in sentence(2.3, 2.1, end=float("nan"))
    assert "20 steps in a row" in sentence(2.3, None, early=True)


def test_a_meta_training_that_diverged_ends_with_1(monkeypatch, tmp_path):
    def meta_train(tasks, optimizer, steps, **_):
        return train_meta_optimizer.mlhf.MetaTraining(optimizer, [], 20, 0.0, diverged=True)

    monkeypatch.setattr(train_meta_optimizer.mlhf, "meta_train", meta_train)
    with pytest.raises(SystemExit) as end:
        run(train_meta_optimizer, *DIGITS, f"--model_dir={tmp_path}")
    assert end.value.code == 1


def lines_of(folder):
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_text().splitlines() if text.endswith("}")]


def ended_by(number, name, *flags, folder):
    """Runs a command until it has done three steps, sends a signal; returns what it has done."""
    process = start(name, *flags, f"--model_dir={folder}")
    ends = time.monotonic() + 300
    while len(lines_of(folder)) < 3:
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err
    # What it had done is saved, though 1,000 steps were not over, and nothing is lost.
    done = lines_of(folder)[-1]["step"]
    assert sorted(folder.glob("checkpoint-*"))[-1].name == f"checkpoint-{done:09d}.npz"
    return done


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_training_with_a_checkpoint(number, tmp_path):
    flags = (*DIGITS, "--optimizer=SGD", "--train_epochs=1000000", "--epochs_per_eval=1000000")
    done = ended_by(number, "use_meta_optimizer", *flags, folder=tmp_path)
    before = lines_of(tmp_path)
    run(use_meta_optimizer, *flags, f"--max_steps={done + 1}", f"--model_dir={tmp_path}")
    assert lines_of(tmp_path)[:-1] == before and lines_of(tmp_path)[-1]["step"] == done + 1


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["backprop", "pes"])
def test_a_signal_ends_a_meta_training_with_a_checkpoint(estimator, tmp_path):
    flags = (*DIGITS, f"--estimator={estimator}", "--meta_roll_back=2", "--CG_iter=1")
    ended_by(signal.SIGTERM, "train_meta_optimizer", *flags, folder=tmp_path)
    assert (tmp_path / "meta_optimizer.npz").exists()
