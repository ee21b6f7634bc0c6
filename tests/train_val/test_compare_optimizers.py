import json
import re
import signal
import sys
import time

import pytest

from replay import DirectoryLock
from tests.train_val.commands import run, start
from tests.train_val.photographs import make_folders
from train_val import compare_optimizers, task_families
from train_val.problems import image_problems
from train_val.task_families import registry

SMALL = (
    "--task=mlp:width=8:data=digits",
    "--batch_size=64",
    "--steps=6",
    "--tuning_steps=3",
    "--seeds=2",
    "--every=2",
    "--loss_images=200",
    "--test_images=100",
)


def test_it_compares_and_continues(tmp_path, capsys, monkeypatch):
    arguments = (*SMALL, "--optimizers=hf:damping=0.1/1:lr=1,adam:lr=0.01/0.1,sgd:lr=3e38")
    arguments += ("--cost_rounds=0", "--tuning_settings=3", f"--model_dir={tmp_path}")
    run(compare_optimizers, *arguments)
    printed = capsys.readouterr().out
    assert "| optimizer | tuned | tried | loss at step 2 |" in printed
    assert "steps to target, by Adam's" in printed and "gradients" not in printed
    assert "SGD, lr 3e+38 (diverged at step" in printed
    for name in ("results.jsonl", "comparison.md", "comparison.png", "comparison.html"):
        assert (tmp_path / name).stat().st_size > 1000, name
    head, *rows = [json.loads(x) for x in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert head["report"] == [2, 4, 6] and head["parameters"] == "610"
    assert "on 200 of the" in head["training loss"] and "on 100 of the" in head["test accuracy"]
    hf, adam, sgd = rows
    assert hf["losses"]["6"][0] < 0.7 * hf["curves"][0]["losses"][0]
    assert hf["curves"][0]["losses"][0] == adam["curves"][0]["losses"][0]
    assert [len(row["tuning"]) for row in rows] == [3, 3, 0]
    assert adam["relative_steps"] == 1 and hf["relative_steps"] is not None
    assert sgd["losses"]["6"] == [None] * 3 and sgd["diverged"]

    # What is done is not done again: the same results, and nothing is run.
    kept = (tmp_path / "runs.jsonl").read_bytes()
    module = sys.modules["train_val.comparison.scoreboard"]
    monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("ran"))
    run(compare_optimizers, *arguments)
    assert (tmp_path / "runs.jsonl").read_bytes() == kept
    again = [json.loads(x) for x in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert again[1:] == rows


FAMILY = """
import keras
from train_val import task_families

@task_families.family
def linear(shape, classes, seed=0):
    kernel = keras.initializers.GlorotUniform(seed)
    output = keras.layers.Dense(classes, {activation!r}, kernel_initializer=kernel, name="output")
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), output])
"""


def test_a_task_file_that_changes_is_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    arguments = [*SMALL, "--task=linear", "--data=digits", f"--task_file={tmp_path / 'mine.py'}"]
    arguments += ["--optimizers=adam:lr=0.01", "--cost_rounds=0", f"--model_dir={tmp_path}"]
    losses, kept = [], []
    for activation in (None, "tanh", None):
        (tmp_path / "mine.py").write_text(FAMILY.format(activation=activation))
        run(compare_optimizers, *arguments)
        row = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[1])
        losses.append([curve["losses"] for curve in row["curves"]])
        kept.append((tmp_path / "runs.jsonl").read_text().count("\n"))
    assert losses[0] != losses[1] and losses[0] == losses[2]
    assert kept == [2, 4, 4]


def test_folders_of_photographs_are_told_apart_and_other_data_keep_their_keys(tmp_path):
    problem = image_problems.make("mlp", "digits")
    arguments = {"name": "mlp", "part": "train", "train_sample": 9, "batch_size": 4}
    found = compare_optimizers.cache_conditions(arguments, problem)
    assert found == {"part": "train", "train_sample": 9}
    kept = []
    for name, images in (("two", 2), ("three", 3), ("others", 3), ("moved", 3), ("tested", 3)):
        folder = make_folders(tmp_path / name, train=images)
        if name == "others":
            for file in list((folder / "train").glob("*/0.JPEG")):
                file.rename(file.with_name("another.JPEG"))
        if name == "tested":
            next((folder / "val").glob("*/0.JPEG")).unlink()
        arguments = {"name": "mlp", "data": "imagenet", "data_dir": str(folder), "part": "train"}
        arguments.update(batch_size=2, image_size=16)
        problem = task_families.problem_of(arguments)
        found = compare_optimizers.cache_conditions(arguments, problem)
        kept.append(found.pop("images"))
        expected = {"num_classes": 3, "train_images": 3 * images}
        assert found == {"part": "train", "image_size": 16, **expected}
    two, three, others, moved, tested = kept
    assert len({two, three, others, tested}) == 4 and moved == three


def test_image_size_is_that_of_a_task_s_photographs_too(tmp_path, monkeypatch):
    folder = make_folders(tmp_path)
    seen = []

    class Reached(Exception):
        pass

    def scoreboard(problem, *_, **__):
        seen.append(problem)
        raise Reached

    monkeypatch.setattr(compare_optimizers.comparison, "scoreboard", scoreboard)
    for given in (["--task=mlp:data=imagenet:width=2"], ["--task=mlp:width=2", "--data=imagenet"]):
        with pytest.raises(Reached):
            run(
                compare_optimizers,
                "--optimizers=sgd",
                f"--data_dir={folder}",
                "--batch_size=2",
                "--image_size=16",
                f"--model_dir={tmp_path / 'results'}",
                *given,
            )
    assert [problem.train.image_size for problem in seen] == [16, 16]


def test_a_folder_is_one_comparison_s_at_a_time(tmp_path):
    arguments = [*SMALL, "--cost_rounds=0", f"--model_dir={tmp_path}"]
    other = DirectoryLock(tmp_path, "comparison")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as end:
        run(compare_optimizers, *arguments, "--optimizers=sgd:lr=0.1")
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    sentence = "Expected a --model_dir that no other command is using, but another comparison uses "
    assert end.value.code.startswith(f"{sentence}{tmp_path} (process ")
    assert sorted(tmp_path.iterdir()) == before
    other.release()
    # It is given free whether a comparison ends well or not.
    with pytest.raises(SystemExit, match="can't be made"):
        run(compare_optimizers, *arguments, "--optimizers=hf:x_use=y:lr=1")
    run(compare_optimizers, *arguments, "--optimizers=sgd:lr=0.1")
    DirectoryLock(tmp_path, "comparison").release()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--optimizers=adamant"], "Expected an optimizer among"),
        (["--optimizers=meta"], "needs a meta_ckpt"),
        (["--optimizers=meta", "--meta_ckpt={tmp}/none"], "none"),
        (
            ["--optimizers=adam", "--report=7"],
            r"Expected --report among the 6 steps of --steps, got 7",
        ),
        (["--optimizers=adam", "--task=lstm"], "Expected a family of tasks among .*'mlp'"),
        (["--optimizers=adam", "--task=mlp:size=3"], "Expected settings among .*'width'"),
        (["--optimizers=adam", "--task=mlp:width=big"], "Expected width to be a int like 32"),
        (["--optimizers=adam", "--task_file={tmp}/none.py"], "Expected a Python file"),
        (["--optimizers=adam", "--task_file=x", "--task="], "Expected --task of a family of x"),
        (["--optimizers=adam", "--problem=resnet"], "Expected --task without --problem"),
        (["--optimizers=adam:lr=0.1:beta_1=abc"], "Expected a number as beta_1, got 'abc'"),
        (["--optimizers=adam", "--batch_size=100000"], "Expected a batch size from 1 to"),
    ],
)
def test_trouble_ends_in_a_sentence(arguments, sentence, tmp_path):
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    with pytest.raises(SystemExit) as end:
        run(compare_optimizers, *SMALL, f"--model_dir={tmp_path / 'new'}", *arguments)
    text = str(end.value)
    assert end.value.code in (2, text) and "\n" not in text  # a text as the code is status 1
    assert re.search(sentence, text), text
    assert not (tmp_path / "new" / "runs.jsonl").exists()


@pytest.mark.parametrize("flag", ["--steps=0", "--seeds=x", "--part=test", "--cost_rounds=-1"])
def test_a_bad_flag_is_named(flag):
    with pytest.raises(SystemExit, match=flag[2:].split("=")[0]) as end:
        run(compare_optimizers, flag)
    assert end.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("as_module", [False, True])
def test_killed_and_continued_with_costs(as_module, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import keras\n"
        "from train_val import task_families\n\n"
        "@task_families.family\n"
        "def linear(shape, classes, seed=0):\n"
        "    kernel = keras.initializers.GlorotUniform(seed)\n"
        "    output = keras.layers.Dense(classes, kernel_initializer=kernel, name='output')\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), output])\n"
    )
    arguments = [
        "--task=linear",
        "--data=digits",
        f"--task_file={tmp_path / 'mine.py'}",
        "--steps=6",
        "--seeds=1",
        "--optimizers=adam,hf",
        "--cost_rounds=3",
        f"--model_dir={tmp_path / 'out'}",
    ]
    runs = tmp_path / "out" / "runs.jsonl"
    process = start("compare_optimizers", *arguments, as_module=as_module)
    ends = time.monotonic() + 300
    while not runs.exists() or runs.read_text().count("\n") < 2:
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = runs.read_text().splitlines()
    process = start("compare_optimizers", *arguments, as_module=as_module)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert runs.read_text().splitlines()[: len(before) - 1] == before[:-1]
    rows = [json.loads(x) for x in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    for row in rows[1:]:
        assert row["cost"]["gradients"] > 0.3 and 1e8 < row["cost"]["peak_bytes"] < 1e11
    assert "peak GB" in out
