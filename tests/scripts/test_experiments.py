"""The experiments as shell scripts: what they run, on which device, and that they resume."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from absl import flags

import mlhf
from tests.project import ROOT
from train_val import (
    compare_optimizers,
    task_families,
    train_meta_optimizer,
    use_meta_optimizer,
    use_meta_resnet_on_imagenet,
)
from train_val.training.optimizer_table import RULE

MODULES = {
    "train_val/compare_optimizers.py": compare_optimizers,
    "train_val/train_meta_optimizer.py": train_meta_optimizer,
    "train_val/use_meta_optimizer.py": use_meta_optimizer,
    "train_val/use_meta_resnet_on_imagenet.py": use_meta_resnet_on_imagenet,
}
# In the place of scripts/common.sh: no install, and a Python that only notes how it is called.
COMMON = """
root="{root}"
VENV_PYTHON="{root}/python"
die() {{ printf '%s\\n' "$*" >&2; exit 1; }}
install_package() {{ cd "$root"; }}
"""
PYTHON = """#!/usr/bin/env bash
printf '%s|%s\\n' "${CUDA_VISIBLE_DEVICES:-none}" "$*" >>calls
case "$*" in *"${FAIL_AT:-nowhere}"*) exit 1 ;; esac
"""


@pytest.fixture
def place(tmp_path):
    """A folder with the scripts, a recording Python, and data."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "scripts" / "common.sh").write_text(COMMON.format(root=tmp_path))
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "data").mkdir()
    # Folders of runs, which the commands would make.
    for kind in ("meta", "eval"):
        for network in ("convnet", "resnet"):
            for rule in ("rnn_cg-2", "rnn_cg-4", "none_cg-2", "none_cg-4"):
                (tmp_path / "runs" / f"{kind}_{network}_x-x_y-{rule}").mkdir(parents=True)
    for name in ("meta", "momentum", "adam", "RMSprop"):
        (tmp_path / "runs" / f"cifar10_{name}").mkdir()
        (tmp_path / "runs" / f"imagenet_{name}").mkdir()
    for name in ("meta", "hf-fix", "hf-lm", "kfac"):
        (tmp_path / "runs" / f"cifar10_512_{name}").mkdir()
    return tmp_path


def go(place, name, *arguments, folder=".", **environment):
    """Runs a script; returns the process and the calls so far, as (device, module, flags)."""
    path = f"{place}/bin:{os.environ['PATH']}"
    process = subprocess.run(
        [place / "scripts" / f"{name}.sh", *arguments],
        cwd=place / folder,
        capture_output=True,
        text=True,
        env={"PATH": path, "HOME": str(place), "DATA": "data", **environment},
    )
    calls = []
    for line in (place / "calls").read_text().splitlines() if (place / "calls").exists() else ():
        device, _, command = line.partition("|")
        # A blank before dashes ends an argument: titles have blanks of their own.
        _, module, *given = command.replace(" --", "\n--").replace(" ", "\n", 1).split("\n")
        calls.append((device, module, given))
    return process, calls


def parse(module, given):
    """The flags as the command itself would read them."""
    before = set(flags.FLAGS)
    MODULES[module].define_flags()
    try:
        flags.FLAGS([module, *given])
        return {name: flags.FLAGS[name].value for name in set(flags.FLAGS) - before}
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


@pytest.mark.parametrize("network", ["convnet", "resnet"])
def test_meta_training_and_validation_of_four_conditions(network, place):
    process, calls = go(place, f"train_meta_optimizer_for_{network}", "--max_steps=3")
    assert process.returncode == 0, process.stderr
    assert len(calls) == 8
    seen = []
    for number, (_, module, given) in enumerate(calls):
        found = parse(module, given)
        assert (found["problem"], found["max_steps"]) == (network, 3)
        assert found["data_dir"] == str(place / "data")
        if number % 2 == 0:
            assert module == "train_val/train_meta_optimizer.py"
            trained = found
            seen.append((found["x_use"], found["y_use"], found["CG_iter"]))
            continue
        # The optimizer is tried out with what it was trained with.
        assert (found["optimizer"], found["meta_ckpt"]) == ("meta", trained["model_dir"])
        assert seen[-1] == (found["x_use"], found["y_use"], found["CG_iter"])
        assert found["resnet_size"] == trained["resnet_size"]
    assert seen == [("x", "rnn", 2), ("x", "rnn", 4), ("x", "none", 2), ("x", "none", 4)]
    expected = {"convnet": (64, 0.3, 1e-3), "resnet": (128, 0.5, 1e-2)}[network]
    assert (trained["batch_size"], trained["keep_prob"], trained["meta_lr"]) == expected
    assert trained["weight_decay"] == found["weight_decay"] == 2e-4 and trained["lr"] == 1.0


@pytest.mark.parametrize(
    "name, batch_size, names",
    [
        ("validation_meta_optimizer_on_cifar10", 128, ["meta", "momentum", "adam", "RMSprop"]),
        ("validation_meta_optimizer_on_imagenet", 64, ["meta", "momentum", "adam", "RMSprop"]),
        ("validation_2nd_order_optimizer_on_cifar10", 512, ["meta", "meta", "meta", "kfac"]),
    ],
)
def test_validations(name, batch_size, names, place):
    process, calls = go(place, name)
    assert process.returncode == 0, process.stderr
    found = [parse(module, given) for _, module, given in calls]
    assert [one["optimizer"] for one in found] == names
    assert {one["batch_size"] for one in found} == {batch_size}
    assert len({one["model_dir"] for one in found}) == 4
    assert found[0]["meta_ckpt"].startswith(str(place / "runs" / "meta_"))
    if "imagenet" in name:
        assert {(one["data"], one["resnet_size"]) for one in found} == {("imagenet", 18)}
    # The original's, at that batch size.
    settings = {
        "validation_meta_optimizer_on_cifar10": [
            {"lr": 2},
            {"lr": 1e-3, "momentum": 0.9},
            {"lr": 1e-3},
            {"lr": 1e-3, "decay": 0.99},
        ],
        "validation_meta_optimizer_on_imagenet": [
            {"lr": 0.5},
            {"lr": 0.025, "momentum": 0.9},
            {"lr": 2.5e-4},
            {"lr": 2.5e-4},
        ],
        "validation_2nd_order_optimizer_on_cifar10": [
            {"lr": 8},
            {"lr": 1e-2, "damping": 5e-3, "damping_type": "regular", "CG_iter": 20},
            {"lr": 1e-3, "damping": 1, "damping_type": "LM_heuristics", "decay": 0.99},
            {"lr": 0.1, "damping": 1, "decay": 0.99},
        ],
    }[name]
    for one, expected in zip(found, settings, strict=True):
        expected = {**expected, "weight_decay": 1e-4 if "imagenet" in name else 2e-4}
        assert {key: one[key] for key in expected} == expected
        if (one["y_use"], one["d_use"]) == ("none", "none"):
            assert one["CG_iter"] == 20


def test_what_ships_is_trained_in_turns(place):
    for name in ("convnet_1", "convnet", "resnet"):
        (place / "runs" / f"pretrained_{name}").mkdir()
    process, calls = go(place, "pretrain")
    assert process.returncode == 0, process.stderr
    found = [parse(module, given) for _, module, given in calls]
    assert [Path(one["model_dir"]).name for one in found] == [
        "pretrained_convnet_1",
        "pretrained_convnet",
        "pretrained_resnet",
    ]
    assert {(one["estimator"], one["layers"]) for one in found} == {("pes", "output")}
    # The second goes on where the first ended.
    assert [one["meta_ckpt"] for one in found] == [None, found[0]["model_dir"], None]
    process, _ = go(place, "pretrain", "convnett")
    assert process.returncode != 0
    assert "convnet and resnet, got convnett" in process.stderr


def test_ablations_differ_in_one_thing_each(place):
    names = ("cg4", "cg2", "no_damping", "no_preconditioner", "from_gradient", "learned_start")
    names += ("gradient_seen", "residual_seen", "solution_seen", "not_scaled")
    for name in names:
        (place / "runs" / f"ablation_{name}").mkdir()
    process, calls = go(place, "ablations")
    assert process.returncode == 0, process.stderr
    *found, last = [parse(module, given) for _, module, given in calls]
    rule = ("CG_iter", "x_use", "y_use", "d_use", "input_scale", "inputs", "tasks", "max_steps")
    settings = [{name: one[name] for name in rule} for one in found]
    differing = [[n for n in rule if one[n] != settings[0][n]] for one in settings]
    assert differing == [
        [],
        ["CG_iter"],
        ["d_use"],
        ["y_use"],
        ["x_use"],
        ["x_use"],
        ["inputs"],
        ["inputs"],
        ["inputs"],
        ["input_scale"],
    ]
    # All of them are entered, one of them twice, and plain Hessian-free and Adam.
    entered = last["optimizers"].split(",")
    assert [part.partition(":")[0] for part in entered] == ["meta"] * 11 + ["hf", "adam"]
    counts = [sum(f"path={one['model_dir']}:" in part for part in entered) for one in found]
    assert counts == [2] + [1] * 9


def test_what_failed_continues_and_what_finished_is_not_repeated(place):
    name = "train_meta_optimizer_for_convnet"
    process, calls = go(place, name, FAIL_AT="eval_convnet_x-x_y-rnn_cg-4")
    assert process.returncode != 0
    assert len(calls) == 4
    process, calls = go(place, name)
    assert process.returncode == 0
    assert len(calls) == 4 + 5
    assert process.stdout.count("Finished before: ") == 3
    process, calls = go(place, name)
    assert len(calls) == 9
    # More steps than before are another request.
    process, calls = go(place, name, "--max_steps=7")
    assert len(calls) == 9 + 8
    # So is the validation of an optimizer that was trained anew, under the same name.
    (place / "runs" / "meta_convnet_x-x_y-rnn_cg-4" / "meta_optimizer.npz").write_text("new")
    process, calls = go(place, name, "--max_steps=7")
    assert process.returncode == 0 and len(calls) == 9 + 8 + 1


def test_one_command_on_each_device_at_a_time(place):
    nvidia_smi(place, "echo 0; echo 1")
    process, calls = go(place, "train_meta_optimizer_for_convnet")
    assert process.returncode == 0, process.stderr
    assert len(calls) == 8
    devices = {given[-1].split("convnet_")[1]: device for device, _, given in calls}
    assert sorted(devices.values()) == ["0", "0", "1", "1"]
    process, _ = go(place, "validation_meta_optimizer_on_cifar10", FAIL_AT="adam")
    assert process.returncode == 1
    assert "Some of the runs failed" in process.stderr


def nvidia_smi(place, text):
    """Puts a program of that name on the path."""
    (place / "bin").mkdir(exist_ok=True)
    (place / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
    (place / "bin" / "nvidia-smi").chmod(0o755)


@pytest.mark.parametrize(
    "text, expected",
    [
        # As a driver that is not loaded says it, on the standard output too.
        ("echo NVIDIA-SMI has failed; echo 0; echo 1; exit 9", ["none"] * 4),
        ("echo No devices; echo were found", ["none"] * 4),
        ("echo a warning; echo 3; echo 11", ["11", "11", "3", "3"]),
    ],
)
def test_devices_are_numbers_that_the_driver_names(text, expected, place):
    nvidia_smi(place, text)
    process, calls = go(place, "validation_meta_optimizer_on_cifar10")
    assert process.returncode == 0, process.stderr
    assert sorted(device for device, _, _ in calls) == expected


@pytest.mark.parametrize(
    "visible, expected",
    [
        ("1,3", ["1", "1", "3", "3"]),
        ("GPU-8932f937, GPU-1ab", ["GPU-1ab", "GPU-1ab", "GPU-8932f937", "GPU-8932f937"]),
        ("2", ["2"] * 4),
        # None of them, which the recording Python writes as if the variable were not set.
        ("", ["none"] * 4),
    ],
)
def test_the_devices_that_the_user_left_visible(visible, expected, place):
    nvidia_smi(place, "echo 0; echo 1; echo 2; echo 3")
    process, calls = go(place, "validation_meta_optimizer_on_cifar10", CUDA_VISIBLE_DEVICES=visible)
    assert process.returncode == 0, process.stderr
    assert sorted(device for device, _, _ in calls) == expected


def test_paths_are_those_of_the_callers_folder(place):
    away = place / "some where"
    (away / "trained").mkdir(parents=True)
    (away / "images").mkdir()
    for name in ("meta", "momentum", "adam", "RMSprop"):
        (away / "out" / f"cifar10_{name}").mkdir(parents=True)

    def paths(**environment):
        (place / "calls").unlink(missing_ok=True)
        shutil.rmtree(away / "out" / "cifar10_meta")
        (away / "out" / "cifar10_meta").mkdir()
        process, calls = go(
            place,
            "validation_meta_optimizer_on_cifar10",
            folder=away,
            DATA="../some where/images",
            RUNS="out",
            **environment,
        )
        assert process.returncode == 0, process.stderr
        given = calls[0][2]
        assert f"--data_dir={away / 'images'}" in given
        assert f"--model_dir={away / 'out' / 'cifar10_meta'}" in given
        (found,) = [flag for flag in given if flag.startswith("--meta_ckpt=")]
        return found.partition("=")[2]

    assert paths(META="trained") == paths(META="./trained/") == str(away / "trained")
    assert paths(META="not/there") == str(away / "not" / "there")
    assert paths(META=str(away / "trained")) == str(away / "trained")
    # The name of one that ships.
    assert paths(META="convnet") == "convnet"
    assert paths() == str(away / "out" / "meta_convnet_x-x_y-rnn_cg-4")


def test_an_old_bash_is_said(place):
    path = place / "scripts" / "experiments.sh"
    text = path.read_text()
    assert "BASH_VERSINFO" in text
    path.write_text("old=(3 2)\n" + text.replace("BASH_VERSINFO", "old"))
    process, calls = go(place, "validation_meta_optimizer_on_cifar10")
    assert process.returncode == 1 and not calls
    assert "Expected bash 4.4 or newer, got " in process.stderr


def test_what_ships_is_what_the_script_trains(place):
    for name in ("pretrained_convnet_1", "pretrained_convnet", "pretrained_resnet"):
        (place / "runs" / name).mkdir()
    process, calls = go(place, "pretrain")
    assert process.returncode == 0, process.stderr
    first, second, resnet = [parse(module, given) for _, module, given in calls]
    assert second["meta_ckpt"] == first["model_dir"]
    for name, flag_values in (("convnet", first), ("resnet", resnet)):
        settings = mlhf.MetaHessianFree.from_pretrained(name).settings
        for flag, setting in RULE.items():
            # The learning rate is learned.
            assert flag == "lr" or flag_values[flag] == settings[setting], flag
        assert settings["learning_rate"] == pytest.approx(flag_values["lr"], rel=0.2)
    for one in (first, second, resnet):
        task_families.make_all(one["tasks"], data="digits")
    process, _ = go(place, "pretrain", "transformer")
    assert "Expected the names convnet and resnet, got transformer" in process.stderr


def test_data_that_is_not_there_is_said(place):
    process, calls = go(place, "validation_meta_optimizer_on_imagenet", DATA="none")
    assert process.returncode == 1 and not calls
    assert f"Expected the data set imagenet in {place}/none, found no such folder" in process.stderr


def test_hypergradients(place):
    names = [
        path.stem
        for path in (ROOT / "train_val" / "experiments").glob("*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    ]
    for name in [*names, "initial_hypergradient"]:
        (place / "runs" / "hypergradients" / name).mkdir(parents=True)
    process, calls = go(place, "hypergradients_on_mnist", "toy", "hyper_cleaning", SEEDS="4,5")
    assert process.returncode == 0, process.stderr
    folder = place / "runs" / "hypergradients"
    assert [call[1:] for call in calls] == [
        ("train_val/experiments/toy.py", [f"--output={folder / 'toy'}"]),
        (
            "train_val/experiments/hyper_cleaning.py",
            [
                f"--data_dir={place / 'data'}",
                "--seeds=4,5",
                f"--output={folder / 'hyper_cleaning'}",
            ],
        ),
    ]
    # The others, each once, and every experiment that there is.
    process, calls = go(place, "hypergradients_on_mnist", SEEDS="4,5")
    assert process.returncode == 0, process.stderr
    run = [module for _, module, _ in calls]
    assert len(run) == len(names) + 1 == len(calls)
    assert set(run) == {f"train_val/experiments/{name}.py" for name in names}
    process, _ = go(place, "hypergradients_on_mnist", "toys")
    assert process.returncode == 1
    assert "Expected names among all_methods chaos " in process.stderr and "toys" in process.stderr


def test_a_folder_of_hypergradients_may_have_blanks(place):
    (place / "my data").mkdir()
    output = place / "my runs" / "hypergradients" / "chaos"
    output.mkdir(parents=True)
    (place / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" >arguments\n")
    process, _ = go(place, "hypergradients_on_mnist", "chaos", DATA="my data", RUNS="my runs")
    assert process.returncode == 0, process.stderr
    assert (place / "arguments").read_text().splitlines() == [
        "-u",
        "train_val/experiments/chaos.py",
        f"--data_dir={place / 'my data'}",
        "--seeds=0,1,2",
        "--points=200",
        f"--output={output}",
    ]


def test_flags_go_to_all_commands_or_to_one(place):
    name = "train_meta_optimizer_for_convnet"
    process, calls = go(
        place, name, "--max_steps=3", "--only-meta", "--meta_lr=1e-2", "--only-eval", "--lr=1"
    )
    assert process.returncode == 0, process.stderr
    for number, (_, module, given) in enumerate(calls):
        found = parse(module, given)
        assert found["max_steps"] == 3
        assert found["lr"] == 1.0 and ("--meta_lr=1e-2" in given) == (number % 2 == 0)
    process, calls = go(place, "validation_meta_optimizer_on_cifar10", "--only-adam", "--lr=0.5")
    rates = {parse(*call[1:])["optimizer"]: parse(*call[1:])["lr"] for call in calls[8:]}
    assert rates == {"meta": 2.0, "momentum": 1e-3, "adam": 0.5, "RMSprop": 1e-3}
    process, _ = go(place, name, "--only-train", "--lr=1")
    assert process.returncode == 1
    assert "Expected --only- and one of meta eval, got --only-train." in process.stderr


@pytest.mark.parametrize(
    "name, rate",
    [
        ("validation_meta_optimizer_on_cifar10", None),
        ("validation_2nd_order_optimizer_on_cifar10", None),
        ("validation_meta_optimizer_on_imagenet", 0.1),
    ],
)
def test_what_ships_has_settings_of_its_own(name, rate, place):
    process, calls = go(place, name, META="resnet")
    assert process.returncode == 0, process.stderr
    found = parse(*calls[0][1:])
    assert (found["optimizer"], found["meta_ckpt"], found["lr"]) == ("meta", "resnet", rate)
    assert found["damping_scale"] == (1.0 if rate is None else 3.0)


def test_each_script_names_its_own_data_and_its_comment_is_its_help(place):
    shutil.rmtree(place / "data")
    for name, words in {
        "pretrain": "Expected the data set cifar10 in .*data, .*cifar10_download_and_extract.py",
        "hypergradients_on_mnist": "the data set mnist in .*MNIST's four idx files, or with mnist/",
        "validation_meta_optimizer_on_imagenet": "the data set imagenet in .*ImageNet's TFRecords",
    }.items():
        process, calls = go(place, name)
        assert process.returncode == 1 and not calls
        assert re.search(words, process.stderr), process.stderr
        process, _ = go(place, name, "--help")
        assert process.returncode == 0 and f"scripts/{name}.sh" in process.stdout
    # Two of the experiments need none.
    (place / "runs" / "hypergradients" / "toy").mkdir(parents=True)
    process, calls = go(place, "hypergradients_on_mnist", "toy")
    assert process.returncode == 0, process.stderr
    assert [module for _, module, _ in calls] == ["train_val/experiments/toy.py"]
    # The folder of all data sets does, and that of the one that is needed.
    (place / "data" / "imagenet").mkdir(parents=True)
    process, calls = go(place, "validation_meta_optimizer_on_imagenet")
    assert parse(*calls[-1][1:])["data_dir"] == str(place / "data" / "imagenet")


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_signal_reaches_the_command_and_the_script_waits_for_it(number, status, gpus, place):
    # A command that saves when it is told to end.
    (place / "python").write_text(
        "#!/usr/bin/env bash\n"
        'trap "sleep 0.2; echo saved >>calls; exit 143" TERM\n'
        "echo started >>calls\n"
        "for i in $(seq 100); do sleep 0.05; done\n"
    )
    nvidia_smi(place, "; ".join(f"echo {gpu}" for gpu in range(gpus)))
    process = subprocess.Popen(
        [place / "scripts" / "validation_meta_optimizer_on_cifar10.sh"],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "DATA": "data"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    calls, ends = place / "calls", time.monotonic() + 60
    while not calls.exists() or calls.read_text().count("started") < gpus:
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=30) == status
    assert calls.read_text().count("saved") == gpus
    assert calls.read_text().count("started") == gpus  # and nothing else was begun
