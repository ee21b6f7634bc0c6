"""All commands at once: help and wrong flags are answered before TensorFlow is imported."""

import json
import re
import subprocess
import sys

import pytest

from tests.train_val.commands import ROOT
from train_val.cli.flags import experiment_flags

COMMANDS = [
    *(
        f"train_val/{name}.py"
        for name in (
            "cifar10_download_and_extract",
            "compare_optimizers",
            "folders_to_tfrecords",
            "quickstart",
            "train_meta_optimizer",
            "tune_hyperparameters",
            "use_meta_optimizer",
            "use_meta_resnet_on_imagenet",
        )
    ),
    *(f"train_val/experiments/{name}.py" for name in experiment_flags.NAMES),
]
# Runs command lines in one process, each as its own would: `python NAME.py`.
RUNNER = """
import contextlib, io, json, os, runpy, sys, time
from absl import flags

sys.path.insert(0, os.getcwd())
import train_val
found = []
for script, *arguments in json.loads(sys.argv[1]):
    before, out, err = set(flags.FLAGS), io.StringIO(), io.StringIO()
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))
    started = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
            status = None
        except SystemExit as end:
            status = end.code
    seconds = time.process_time() - started
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    sys.modules.pop("_bootstrap", None)
    heavy = sorted({"tensorflow", "keras", "mlhf"} & set(sys.modules))
    found.append([status, out.getvalue(), err.getvalue(), seconds, heavy])
print(json.dumps(found))
"""


def answers(lines):
    process = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(lines)], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_the_list_is_complete():
    found = {
        str(path.relative_to(ROOT))
        for folder in ("train_val", "train_val/experiments")
        for path in (ROOT / folder).glob("*.py")
        if re.search(r"\n    (running|experiment_flags)\.begin\(", path.read_text())
    }
    runnable = {
        str(path.relative_to(ROOT))
        for folder in ("train_val", "train_val/experiments")
        for path in (ROOT / folder).glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert found == runnable == set(COMMANDS)


def test_help_and_wrong_flags_are_answered_without_tensorflow():
    wrong = ["--no_such_flag=1", "stray"]
    lines = [[command, given] for command in COMMANDS for given in ("--help", *wrong)]
    lines += [[command, "--helpfull"] for command in COMMANDS[:2]]
    for (command, given), (status, out, err, seconds, heavy) in zip(
        lines, answers(lines), strict=True
    ):
        assert not heavy and seconds < 1.5, (command, given, heavy, seconds)
        assert "Traceback" not in out + err
        if given.startswith("--help"):
            assert status == 0 and not err
            assert (
                f"python {command} --FLAG=VALUE" in out and "Exit status: 0 done; 1 failed" in out
            )
            # Plain English, each with its default, none without a group.
            flags = re.findall(r"^  --\S+\n((?:      .+\n)+)", out, re.MULTILINE)
            assert flags and all("Default:" in text for text in flags), command
            assert not re.search(r"^ {6}(Of|Whose) ", out, re.MULTILINE)
        else:
            assert status == 2 and not out and err.count("\n") == 1, (command, given, err)


@pytest.mark.parametrize(
    "command, given, sentence",
    [
        ("use_meta_optimizer", "--problem=cat", "--problem as one of convnet, mlp, resnet, got 'c"),
        ("use_meta_optimizer", "--optimizer=moon", "--optimizer as one of meta, kfac, martens"),
        ("use_meta_optimizer", "--optimzer=adam", "Did you mean --optimizer?"),
        (
            "use_meta_optimizer",
            "--jit_compile=maybe",
            "--jit_compile as true or false, got 'maybe'",
        ),
        ("use_meta_optimizer", "--optimizer=meta", "--optimizer=meta needs --meta_ckpt"),
        ("use_meta_optimizer", "--data=digits --split=standard --optimizer=SGD", "CIFAR-10's only"),
        ("compare_optimizers", "--optimizers=sgd:lr=-1", "learning_rate to be a finite number abo"),
        ("compare_optimizers", "--optimizers=adam:lr=nan/1", "got nan in 'adam:lr=nan/1'"),
        ("compare_optimizers", "--optimizers=adam:beta_1=2", "beta_1 to be .* below 1, got 2"),
        ("compare_optimizers", "--optimizers=hf:cg=0", "cg_iterations to be a whole number of at"),
        ("compare_optimizers", "--optimizers=moon", "Expected an optimizer among"),
        ("compare_optimizers", "--target=nan", "--target to be a finite number, got nan"),
        ("compare_optimizers", "--task=mlp:weight_decay=nan", "weight_decay to be a finite"),
        (
            "compare_optimizers",
            "--steps=60 --report=25,61",
            "among the 60 steps of --steps, got 61",
        ),
        ("train_meta_optimizer", "--tasks=lstm", "Expected a family of tasks among"),
        ("train_meta_optimizer", "--estimator=pes --horizon=15", "multiple of --meta_roll_back=10"),
        ("tune_hyperparameters", "--outer_lr=l2=nan", "outer_lr of l2 to be a finite number"),
        ("tune_hyperparameters", "--start=l2=inf", "start of l2 to be a finite number, got inf"),
        ("folders_to_tfrecords", "--data_dir=x", "Expected --output_dir, got none"),
        (
            "experiments/chaos",
            "--iterations=3",
            "no flag --iterations. hyper_cleaning, learned_schedules, .* have it",
        ),
        ("experiments/chaos", "--seeds=x", "Expected --seeds as whole numbers from 0 on"),
        ("experiments/all_methods", "--networks=lstm", "Expected --networks as some of softmax"),
    ],
)
def test_wrong_values_are_named(command, given, sentence, table):
    status, err = table[f"train_val/{command}.py", given]
    assert status == 2 and err.count("\n") == 1
    assert re.search(sentence, err), err


@pytest.fixture(scope="module")
def table(request):
    """The answers to all lines of the test above, from one process."""
    mark = next(m for m in test_wrong_values_are_named.pytestmark if m.name == "parametrize")
    keys = [(f"train_val/{command}.py", given) for command, given, _ in mark.args[1]]
    found = answers([[command, *given.split()] for command, given in keys])
    assert not any(heavy for *_, heavy in found)
    return {key: (one[0], one[2]) for key, one in zip(keys, found, strict=True)}
