"""A comparison that is told to end goes on within the run that it was at."""

import os
import signal

import pytest

from train_val.comparison import parse, run
from train_val.comparison.unfinished import FILE, Unfinished
from train_val.problems import image_problems


@pytest.mark.parametrize(
    "text",
    ["adam:lr=0.01", pytest.param("kfac:lr=0.03:damping=1", marks=pytest.mark.slow)],
)
def test_a_run_that_was_told_to_end_goes_on_where_it_was(text, tmp_path):
    problem = image_problems.make("mlp", "digits", batch_size=32)
    optimizer = parse(text).make({})
    key = {"optimizer": text, "seed": 1}

    def go(on_step=lambda: None, key=key):
        unfinished = Unfinished(tmp_path, key)
        return run(
            problem, optimizer, 1, 6, 2, accuracy=True, on_step=on_step, unfinished=unfinished
        )

    whole, steps = go(), []
    assert not (tmp_path / FILE).exists()

    def end_at_three():
        steps.append(len(steps) + 1)
        if steps[-1] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        go(end_at_three)
    assert end.value.code == 143 and steps == [1, 2, 3]
    content = (tmp_path / FILE).read_bytes()
    # Not what another run kept; and it stays there for the one that did.
    other = go(key={**key, "seed": 2})
    assert other.losses == whole.losses and (tmp_path / FILE).read_bytes() == content
    again = []
    continued = go(lambda: again.append(1))
    assert len(again) == 6  # for the bar: the three that were done, and the others
    assert (continued.steps, continued.losses) == (whole.steps, whole.losses)
    assert continued.accuracies == whole.accuracies
    assert 0 < continued.seconds[1] < continued.seconds[-1]
    # A damaged file costs the run, and nothing else.
    (tmp_path / FILE).write_bytes(content[: len(content) // 2])
    assert go().losses == whole.losses
    Unfinished(tmp_path, key).clear()
    assert not (tmp_path / FILE).exists()
