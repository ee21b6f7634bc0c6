import os
import signal
import threading

import pytest

from mlhf.runs.saving import Saving


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C interrupts, also where a shell began the tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(saving, steps, at=None, number=signal.SIGTERM, clock=None):
    """A run of so many steps; a signal comes during one. Returns steps done and those saved at."""
    done, saved = 0, []

    def save():
        saved.append(done)

    try:
        with saving:
            while done < steps and not saving.stopping:
                if done + 1 == at:
                    os.kill(os.getpid(), number)
                done += 1
                if clock is not None:
                    clock[0] += 10
                saving.after(done, save, last=done == steps)
            saving.finish(done, save)
    finally:
        run.result = done, saved
    return done, saved


def test_it_saves_by_steps_by_minutes_and_at_the_end():
    assert run(Saving(4, 0), 10) == (10, [4, 8, 10])
    # A step takes 10 seconds: a minute is over after six.
    clock = [0.0]
    assert run(Saving(100, 1, clock=lambda: clock[0]), 15, clock=clock) == (15, [6, 12, 15])
    clock = [0.0]
    saving = Saving(4, 1, clock=lambda: clock[0])
    assert run(saving, 11, clock=clock) == (11, [4, 8, 11])
    assert run(Saving(5, done=0), 0) == (0, [])
    for arguments in ((0,), (1, -1.0), (1, float("nan"))):
        with pytest.raises(ValueError, match="Expected save_"):
            Saving(*arguments)


@pytest.mark.parametrize(
    "number, end, status",
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)],
)
def test_a_signal_ends_a_run_after_its_step_and_saves(number, end, status):
    before = signal.getsignal(number)
    with pytest.raises(end) as ended:
        run(Saving(100), 9, at=3, number=number)
    assert run.result == (3, [3])
    assert status is None or ended.value.code == status
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_at_once():
    with pytest.raises(KeyboardInterrupt), Saving(1) as saving:
        os.kill(os.getpid(), signal.SIGTERM)
        assert saving.stopping
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_programs_own_handler_is_called_and_an_ignored_signal_stays_so():
    called = []
    try:
        signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
        assert run(Saving(100), 9, at=3) == (3, [3])
        assert called == [signal.SIGTERM]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert run(Saving(100), 5, at=3) == (5, [5])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_other_threads_and_runs_that_keep_nothing_catch_no_signals():
    found = []
    thread = threading.Thread(target=lambda: found.append(run(Saving(2), 3)))
    thread.start()
    thread.join()
    assert found == [(3, [2, 3])]
    with pytest.raises(KeyboardInterrupt):
        run(Saving(100, signals=False), 9, at=3, number=signal.SIGINT)
    assert run.result == (2, [])
