"""In a clone the folders beside `mlhf` are importable as parts of it: the same objects."""

import importlib
import pickle
import subprocess
import sys

import pytest

import custom_op
import mlhf
import replay
import train_val
from tests.project import ROOT


def test_both_names_are_one_module():
    assert mlhf.custom_op is custom_op
    assert importlib.import_module("mlhf.replay") is replay
    from mlhf import train_val as inside

    assert inside is train_val
    from mlhf.custom_op.losses import registry

    assert registry is importlib.import_module("custom_op.losses.registry")


def test_a_function_is_not_hidden_by_the_module_of_its_name():
    import mlhf.custom_op.checkpoint  # noqa: F401

    assert callable(custom_op.checkpoint)
    module = importlib.import_module("mlhf.train_val.comparison.scoreboard")
    assert importlib.import_module("train_val.comparison").scoreboard is module.scoreboard


def test_a_module_keeps_its_own_name_and_spec():
    module = importlib.import_module("mlhf.replay.numbers")
    assert (module.__name__, module.__spec__.name) == ("replay.numbers", "replay.numbers")
    assert pickle.loads(pickle.dumps(mlhf.custom_op.NotDifferentiableError)) is (
        custom_op.NotDifferentiableError
    )


def test_what_is_not_there_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="mlhf.replay.nothing"):
        importlib.import_module("mlhf.replay.nothing")


def test_another_projects_package_is_refused(tmp_path):
    other = tmp_path / "replay"
    other.mkdir()
    (other / "__init__.py").write_text("")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "try:\n    from mlhf import replay\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"Expected the package replay of the clone in {ROOT}, found {other}" in done.stdout
