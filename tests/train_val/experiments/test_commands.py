"""The experiments as commands: what was killed continues, and errors are sentences."""

import importlib
import json

import numpy as np
import pytest
from absl import flags

from tests import damage
from tests.train_val import commands
from tests.train_val.experiments.clouds import examples
from train_val.experiments import mnist_slices, reporting

NAMES = sorted(
    path.stem
    for path in (commands.ROOT / "train_val" / "experiments").glob("*.py")
    if "reporting.run_seeds(" in path.read_text() and path.stem != "reporting"
)


@pytest.fixture(params=NAMES)
def experiment(request, monkeypatch):
    """An experiment without its work: its runs are only counted, in `calls`."""
    module = importlib.import_module(f"train_val.experiments.{request.param}")
    monkeypatch.setattr(
        mnist_slices, "load_slices", lambda _, sizes, **more: [examples(120)] * len(sizes)
    )
    calls = []

    def run(*given, **more):
        calls.append(given)
        if len(calls) in module.fail_at:
            raise KeyboardInterrupt
        return {"images": [], "call": len(calls)}

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "fail_at", (), raising=False)
    monkeypatch.setattr(module, "calls", calls, raising=False)
    monkeypatch.setattr(module, "as_markdown", lambda runs: f"seeds {list(runs)}", raising=False)
    monkeypatch.setattr(reporting, "table", lambda runs, names: f"seeds {list(runs)}")
    monkeypatch.setattr(module, "draw", lambda found, path: None)
    return module


def test_what_was_killed_continues_and_what_is_done_is_kept(experiment, tmp_path, capsys):
    def run(*more):
        experiment.calls.clear()
        commands.run(experiment, "--seeds=0,1", f"--output={tmp_path}", *more)
        return len(experiment.calls)

    name = experiment.__name__.rpartition(".")[2]
    path = tmp_path / f"{name}.json"
    each = {"all_methods": 3, "drmad_fidelity": 2, "rgd_nn": 2}.get(name, 1)  # runs of a seed
    experiment.fail_at = (each + 1,)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130
    first = json.loads(path.read_text())
    assert set(first) == {"0", "flags"}
    experiment.fail_at = ()
    assert run() == each
    assert json.loads(path.read_text())["0"] == first["0"]
    assert run() == 0
    assert f"seed 1: kept from {path}" in capsys.readouterr().out
    assert (tmp_path / f"{name}.md").read_text() == "seeds [0, 1]\n"
    # Fewer seeds, and in another order.
    assert run("--seeds=1") == 0
    assert (tmp_path / f"{name}.md").read_text() == "seeds [1]\n"
    # Every flag but seeds and output is another request.
    others = {"data_dir": "elsewhere", "iterations": 3, "points": 30, "steps": 30, "momentum": 0.5}
    others |= {"networks": "cnn", "outer_adam": "plain"}
    settings = json.loads(path.read_text())["flags"]
    for flag in settings:
        if flag == "networks":
            each = 1
        if flag == "outer_adam":
            others[flag] = next(k for k in experiment.OUTER_ADAMS if k != settings[flag])
        assert run(f"--{flag}={others[flag]}") == 2 * each, flag


def test_every_flag_that_changes_a_run_is_kept_with_it(experiment, tmp_path):
    before = set(flags.FLAGS)
    experiment.define_flags()
    defined = set(flags.FLAGS) - before
    for name in defined:
        delattr(flags.FLAGS, name)
    commands.run(experiment, f"--output={tmp_path}")
    (path,) = tmp_path.glob("*.json")
    # Averaging does no runs of seeds.
    assert set(json.loads(path.read_text())["flags"]) == defined - {
        "seeds",
        "jobs",
        "output",
        "average_seeds",
    }


def test_errors_are_sentences(experiment, tmp_path):
    for seeds in ("x", "0,-1", ""):
        with pytest.raises(SystemExit, match="Expected --seeds as whole numbers from 0 on"):
            commands.run(experiment, f"--seeds={seeds}", f"--output={tmp_path}")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="Expected to use .*file, could not"):
        commands.run(experiment, f"--output={tmp_path / 'file'}")


def test_no_images_and_no_such_network(tmp_path):
    all_methods = importlib.import_module("train_val.experiments.all_methods")
    with pytest.raises(SystemExit, match="Expected .*none"):
        commands.run(all_methods, f"--data_dir={tmp_path / 'none'}", f"--output={tmp_path}")
    with pytest.raises(SystemExit, match="Expected --networks as some of softmax, mlp, cnn"):
        commands.run(all_methods, "--networks=mlp,transformer")


def test_a_file_cut_short_is_no_runs(tmp_path, capsys):
    path, settings = tmp_path / "runs.json", {"iterations": 3}
    assert reporting.load(path, settings) == {}
    reporting.save(path, {4: {"loss": [1.0, float("nan")]}}, settings)
    assert np.isnan(reporting.load(path, settings)[4]["loss"][1])
    assert reporting.load(path, {"iterations": 4}) == {}
    path.write_text(path.read_text()[:-9])
    assert reporting.load(path, settings) == {}
    for name, content in damage.damaged(b'{"4": 1}'):
        path.touch()
        damage.put(path, content)
        assert reporting.load(path, settings) == {}, name
        aside = path.with_name("runs.json.damaged")
        if aside.exists():
            assert not path.exists() and "is " + str(aside) in capsys.readouterr().out
            # Whatever it was is kept.
            assert content is None or aside.read_bytes() == content
            aside.rename(tmp_path / name)
    # Runs whose flags were not kept.
    reporting.save(path, {4: {}})
    assert reporting.load(path, settings) == {}


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "runs.json"
    reporting.save(path, {0: 1.0})
    with pytest.raises(TypeError):
        reporting.save(path, {0: 1.0, 1: object()})
    assert json.loads(path.read_text()) == {"0": 1.0}
