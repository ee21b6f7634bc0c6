import io

import pytest

from mlhf.runs import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_numbers_come_first_and_the_time_left_from_the_tenth_step_on(clock):
    text = io.StringIO()
    with progress.ProgressBar(total=60, initial=5, desc="mlp", file=text, ncols=100) as bar:
        for step in range(1, 12):
            # The first step traces.
            clock[0] += 100 if step == 1 else 2
            bar.step(loss=f"{1 / step:.3f}", skipped=0)
            left = bar.seconds_left()
            assert left == (None if step < 10 else 2 * (55 - step)), step
        line = str(bar)
    assert line.startswith("mlp: loss 0.091, skipped 0  27%|")
    assert "| 16/60 steps [" in line and line.endswith(", 1 min left]")


def test_a_bar_over_something_and_one_without_an_end(clock):
    text = io.StringIO()
    assert list(progress.ProgressBar(range(12), unit="seed", file=text, ncols=80)) == [*range(12)]
    assert "12/12 seeds [" in text.getvalue()
    with progress.ProgressBar(total=None, desc="reverse", file=text, ncols=80) as bar:
        bar.step(norm="3")
        assert str(bar).startswith("reverse: norm 3 1 steps [") and "left" not in str(bar)
        bar.set_description("other")
        assert str(bar).startswith("other: norm 3 ")


@pytest.mark.parametrize(
    "seconds, text",
    [(7.4, "7 s"), (90, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"), (2e5, "2 days 7 h")],
)
def test_durations_in_words(seconds, text):
    assert progress.duration(seconds) == text


def test_what_was_done_before_is_no_measure(clock):
    with progress.ProgressBar(total=100, file=io.StringIO(), ncols=80) as bar:
        for _ in range(6):
            clock[0] += 5
            bar.step()
        bar.skip(50)
        for _ in range(6):
            clock[0] += 5
            bar.step()
        assert bar.n == 62 and bar.seconds_left() == 5 * 38
