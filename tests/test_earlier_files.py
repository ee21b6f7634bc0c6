"""Files that an earlier version wrote can be read, and its runs continued.

`tests/fixtures/VERSION` is what `python -m tests.test_earlier_files` writes at that version. The
folders of earlier versions stay as they are; a later one gets its own when a format changes.
"""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer.portable_state import from_portable, to_portable
from mlhf.optimizers.saved_state import from_leaves, to_leaves
from mlhf.runs import run_log
from replay import PrioritizedReplay, read_structure, write_structure
from tests.contract import start
from tests.mlhf.runs import short_runs
from tests.train_val.comparison.problems import Halving, entrant
from tests.train_val.comparison.problems import problem as halved
from train_val.comparison import scoreboard
from train_val.problems import image_problems
from train_val.training import loop, optimizers, run_settings

FIXTURES = Path(__file__).resolve().parent / "fixtures"
VERSIONS = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())
OPTIMIZERS = {
    "first_order": lambda: mlhf.FirstOrder(lambda: keras.optimizers.Adam(0.1)),
    "hessian_free": mlhf.HessianFree,
    "kfac": mlhf.KFAC,
    "martens_hessian_free": mlhf.MartensHessianFree,
}
SETTINGS = {"lr": 0.01, "name": "earlier"}


@pytest.fixture(params=VERSIONS)
def earlier(request, tmp_path):
    """A copy of what one version wrote."""
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / request.param))


def _problem():
    return image_problems.make("mlp", "digits", batch_size=32, seed=3)


@pytest.fixture(scope="module")
def problem():
    return _problem()


@pytest.fixture(scope="module")
def hypergradient_problem():
    return short_runs.make_problem()


def _state_after(optimizer, number):
    """Returns a state of which each leaf has numbers of its own, and no step is needed."""
    state = optimizer.init(start(tf.float64))
    return tf.nest.map_structure(
        lambda leaf: leaf if leaf.dtype == tf.bool else leaf + tf.cast(number, leaf.dtype), state
    )


def _meta_state(optimizer):
    parameters = start(tf.float64)
    layout, state = optimizer.layout(parameters), optimizer.init(parameters)
    mask = layout.mask()
    return state._replace(solution=2 * mask, residual=3 * mask), layout


def test_there_are_versions():
    assert VERSIONS


def _assert_same(found, expected):
    tf.nest.assert_same_structure(found, expected)
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_is_read(earlier, name):
    expected = _state_after(OPTIMIZERS[name](), 2)
    saved = read_structure(earlier / "states" / f"{name}.npz")
    _assert_same(from_leaves(saved, expected, finite=True), expected)


def test_the_learned_optimizers_state_and_weights_are_read(earlier):
    optimizer = mlhf.MetaHessianFree.from_pretrained(earlier / "learned.npz")
    written = _learned()
    assert optimizer.settings == written.settings and optimizer.kinds == written.kinds
    _assert_same(optimizer.weights, written.weights)
    expected, layout = _meta_state(optimizer)
    saved = read_structure(earlier / "states" / "meta_hessian_free.npz")
    _assert_same(from_portable(saved, expected, layout, True), expected)


@pytest.mark.parametrize("kind", short_runs.KINDS)
def test_a_run_is_continued(earlier, kind, hypergradient_problem, tmp_path, monkeypatch):
    run = short_runs.runs(monkeypatch, hypergradient_problem)[kind]
    folder = earlier / "runs" / kind
    found = run(folder, short_runs.STEPS)
    whole = run(tmp_path / "whole", short_runs.STEPS)
    for a, b in zip(found, whole, strict=True):
        if not isinstance(a, str):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    lines = run_log.read_lines(folder / run_log.FILE)
    assert [line["step"] for line in lines.lines] == [1, 2, 3, 4] and not lines.damaged


def test_a_training_is_continued_with_its_settings_only(earlier, problem):
    folder = earlier / "training"
    run_settings.check(folder, SETTINGS)
    with pytest.raises(ValueError, match="lr: expected 0.5, found 0.01"):
        run_settings.check(folder, {**SETTINGS, "lr": 0.5})
    with pytest.raises(ValueError, match="lr: expected 0.5, found 0.01"):
        _train(problem, folder, 3, lr=0.5)
    result = _train(problem, folder, 3)
    assert [line["step"] for line in result.history] == [1, 2, 3]


def test_finished_runs_of_a_comparison_are_not_done_again(earlier):
    class Refused:
        def __init__(self, rate):
            raise AssertionError("a run that the file has is done again")

    (score,) = _compare(earlier / "runs.jsonl", Refused)
    assert score.curves[0].losses[0] == 101 and score.curves[0].losses[-1] < 1


def test_a_replay_is_opened(earlier):
    with PrioritizedReplay.load(earlier / "replay") as replay:
        assert replay.ids.tolist() == [1, 2]
        np.testing.assert_array_equal(replay.priorities, [0.5, 2.0])
        _assert_same(replay.snapshot(2), _snapshot(2))


def _learned():
    optimizer = mlhf.MetaHessianFree(0.5, cg_iterations=3, y_use="none", seed=4)
    optimizer.init(start(tf.float64))
    return optimizer


def _train(problem, folder, steps, **settings):
    return loop.train(
        problem,
        optimizers.make("adam", lr=0.01).optimizer,
        steps,
        model_dir=folder,
        settings={**SETTINGS, **settings},
        progress=False,
    )


def _compare(cache, make):
    settings = {"steps": 3, "every": 1, "tuning_steps": 1, "progress": False}
    return scoreboard(halved(), [entrant("Halving", (0.1, 1.0), make)], cache=cache, **settings)


def _snapshot(number):
    return {"weights": [np.arange(3) * number, np.float32(number)], "name": f"number {number}"}


def write():
    """Writes a folder for this version."""
    folder = FIXTURES / mlhf.__version__
    for name, make in OPTIMIZERS.items():
        (folder / "states").mkdir(parents=True, exist_ok=True)
        write_structure(folder / "states" / f"{name}.npz", to_leaves(_state_after(make(), 2)))
    learned = _learned()
    learned.save(folder / "learned.npz")
    state = to_portable(*_meta_state(learned))
    write_structure(folder / "states" / "meta_hessian_free.npz", state)
    with pytest.MonkeyPatch.context() as patch:
        for kind, run in short_runs.runs(patch, short_runs.make_problem()).items():
            run(folder / "runs" / kind, short_runs.SAVED)
    _train(_problem(), folder / "training", 2)
    run_settings.write(folder / "training", SETTINGS)
    _compare(folder / "runs.jsonl", Halving)
    with PrioritizedReplay(2, folder / "replay", seed=3) as replay:
        for number, priority in enumerate((1.0, 0.5, 2.0)):
            replay.add(_snapshot(number), priority)
        replay.save()
    for path in folder.rglob("*"):
        if path.name == "lock" or "tfevents" in path.name:
            path.unlink()


if __name__ == "__main__":
    write()
