import json
import re

import numpy as np
import pytest

from replay import read_structure
from tests.train_val import photographs as made
from tests.train_val.commands import DIGITS, kill_at, run, start
from train_val import train_meta_optimizer, use_meta_optimizer
from train_val.cli import running
from train_val.problems import image_problems

FLAGS = (*DIGITS, "--max_steps=40", "--save_steps=4", "--epochs_per_eval=1")


def newest(folder):
    return read_structure(sorted(folder.glob("checkpoint-*.npz"))[-1])


def read_lines(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def test_killed_and_continued_ends_with_the_same_bits(meta_folder, tmp_path, capsys):
    arguments = (*FLAGS, f"--meta_ckpt={meta_folder}", "--record_experience=5")
    process = start(
        "use_meta_optimizer", *arguments, f"--model_dir={tmp_path / 'killed'}", as_module=True
    )
    kill_at(process, tmp_path / "killed" / "checkpoint-000000004.npz")
    assert not (tmp_path / "killed" / "checkpoint-000000040.npz").exists()
    for name in ("killed", "whole"):
        run(use_meta_optimizer, *arguments, f"--model_dir={tmp_path / name}")
    killed, whole = newest(tmp_path / "killed"), newest(tmp_path / "whole")
    assert killed["parameters"].keys() == whole["parameters"].keys()
    for path, value in whole["parameters"].items():
        np.testing.assert_array_equal(killed["parameters"][path], value)
    for a, b in zip(read_lines(tmp_path / "killed"), read_lines(tmp_path / "whole"), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    for number in range(5):
        name = f"experience/snapshot-{number:08d}.npz"
        a, b = (read_structure(tmp_path / run / name) for run in ("killed", "whole"))
        for path, value in b["parameters"].items():
            np.testing.assert_array_equal(a["parameters"][path], value)
    printed = capsys.readouterr().out
    assert f"From {meta_folder}: CG_iter=3, x_use=x" in printed
    assert re.search(r"40 steps: loss on 750 training images \d\.\d{4}, test accuracy", printed)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optimizer=SGD", "--lr=0.5"],
        ["--optimizer=momentum", "--lr=0.1", "--momentum=0.8"],
        ["--optimizer=ADAM", "--lr=0.02", "--beta1=0.8", "--beta2=0.99"],
        ["--optimizer=rmsprop", "--lr=0.005", "--decay=0.95"],
        ["--optimizer=meta", "--y_use=none", "--d_use=none", "--damping=0.1", "--resnet_size=5"],
        ["--optimizer=kfac", "--lr=0.1", "--damping=0.1", "--decay=0.9"],
        ["--optimizer=kfac", "--damping_type=LM_heuristics"],
        ["--optimizer=martens", "--CG_iter=10", "--curvature_share=0.5"],
        ["--optimizer=adamw", "--lr=0.02", "--schedule=cosine"],
        ["--optimizer=muon", "--schedule=linear", "--warmup=0.1"],
        ["--optimizer=amuse"],
    ],
    ids=lambda arguments: arguments[0][12:],
)
def test_every_optimizer_lowers_the_loss(arguments, tmp_path):
    run(use_meta_optimizer, *DIGITS, "--max_steps=30", f"--model_dir={tmp_path}", *arguments)
    lines = read_lines(tmp_path)
    problem = image_problems.make("mlp", "digits")
    assert lines[-1]["training_loss"] < problem.training_loss(problem.task.initialize(1)) - 0.005


def test_a_run_goes_on_with_the_photographs_that_it_began_with(tmp_path, capsys):
    flags = ["--data=imagenet", "--problem=mlp", "--image_size=8", "--batch_size=2",
             "--optimizer=SGD", f"--model_dir={tmp_path / 'run'}"]  # fmt: skip
    folders = [made.make_folders(tmp_path / name, train=3) for name in ("one", "copy", "other")]
    (folders[2] / "train" / made.CLASSES[0] / "2.JPEG").rename(
        folders[2] / "train" / made.CLASSES[0] / "9.JPEG"
    )
    run(use_meta_optimizer, *flags, f"--data_dir={folders[0]}", "--max_steps=1")
    assert "1 steps: loss on 9 training images" in capsys.readouterr().out
    run(use_meta_optimizer, *flags, f"--data_dir={folders[1]}", "--max_steps=2")
    assert "2 steps: loss on 9 training images" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="images"):
        run(use_meta_optimizer, *flags, f"--data_dir={folders[2]}", "--max_steps=3")


def test_settings_of_the_checkpoint_hold_unless_others_are_given(meta_folder, tmp_path, capsys):
    arguments = (*DIGITS, "--max_steps=1", f"--meta_ckpt={meta_folder}")
    run(
        use_meta_optimizer,
        *arguments,
        f"--model_dir={tmp_path}",
        "--CG_iter=1",
        "--x_use=x",
        "--lr=0.5",
        "--print_log_in_meta_optimizer",
    )
    printed = capsys.readouterr().out
    assert (
        f"{meta_folder} was meta-trained with CG_iter=3, lr=1.0; using CG_iter=1, lr=0.5."
    ) in printed
    assert f"From {meta_folder}: y_use=rnn, d_use=rnn, damping=2e-05" in printed
    assert "step 1: ‖x‖/‖g‖" in printed and "‖w‖" in printed
    assert read_lines(tmp_path)[0]["cg_iterations"] == 1


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "--optimizer=meta needs --meta_ckpt: the folder of a meta-training"),
        (["--meta_ckpt={tmp}"], "Expected a trained meta-optimizer: .*found nothing at {tmp}"),
        (["--meta_ckpt={tmp}/file"], "{tmp}/file"),
        (["--meta_ckpt={meta}", "--x_use=rnn"], "Expected x_use=x, which .* was meta-trained with"),
        (["--meta_ckpt={meta}", "--y_use=none", "--d_use=none"], "leave meta_ckpt out"),
        (["--meta_ckpt={meta}", "--model_dir={meta}"], "found those of something else"),
        (
            ["--meta_ckpt={meta}", "--problem=convnet"],
            r"variables of the kinds \['conv_bias', 'conv_kernel'\]",
        ),
        (["--y_use=none", "--d_use=none", "--x_use=rnn"], "expected x_use=x or x_use=d"),
        (["--optimizer=martens", "--schedule=linear"], "a learning rate beside --schedule or"),
        (["--optimizer=adam", "--horizon=9"], "Expected --schedule or --warmup beside --horizon"),
        (["--optimizer=kfac", "--warmup=1"], "Expected --lr for kfac beside --schedule"),
        (["--optimizer=adam", "--lr=0"], "Expected --lr to be a finite number above 0, got 0.0"),
        (["--optimizer=adam", "--batch_size=1000"], "Expected a batch size from 1 to 750"),
        (["--optimizer=adam", "--model_dir={tmp}/file"], "Expected a folder to write to"),
        (["--optimizer=adam", "--record_experience=9"], "Expected record_experience of at most"),
    ],
)
def test_trouble_ends_in_a_sentence(arguments, sentence, meta_folder, tmp_path):
    (tmp_path / "file").write_text("nothing")
    places = {"tmp": tmp_path, "meta": meta_folder}
    arguments = [argument.format(**places) for argument in arguments]
    with pytest.raises(SystemExit) as end:
        run(
            use_meta_optimizer,
            *DIGITS,
            "--max_steps=2",
            f"--model_dir={tmp_path / 'new'}",
            *arguments,
        )
    text = str(end.value)
    assert end.value.code in (2, text) and "\n" not in text  # a text as the code is status 1
    assert re.search(sentence.format(**places), text), text
    assert not list((tmp_path / "new").rglob("*.npz"))


@pytest.mark.parametrize("module", [train_meta_optimizer, use_meta_optimizer])
@pytest.mark.parametrize(
    "flag",
    ["--CG_iter=0", "--lr=fast", "--problem=resnet99", "--data=cats", "--max_steps=x", "--bad=1"],
)
def test_a_bad_flag_is_named(module, flag):
    with pytest.raises(SystemExit, match=flag[2:].split("=")[0]) as end:
        run(module, flag)
    assert end.value.code == 2


def test_an_error_of_the_system_is_a_sentence(tmp_path):
    with pytest.raises(SystemExit) as end:
        running.guarded(lambda: (tmp_path / "none").read_text())
    assert end.value.code == (
        f"Expected to use {tmp_path / 'none'}, could not (No such file or directory): make room, "
        "change its permissions, or choose another place."
    )


def test_the_standard_split_says_what_it_mixes(data_dir, tmp_path, capsys):
    run(
        use_meta_optimizer,
        "--problem=mlp",
        "--split=standard",
        f"--data_dir={data_dir}",
        "--optimizer=SGD",
        "--lr=0.01",
        "--max_steps=1",
        f"--model_dir={tmp_path}",
    )
    assert "include those that meta-training" in capsys.readouterr().out


@pytest.mark.slow
def test_the_convnet_end_to_end(data_dir, tmp_path):
    common = ("--problem=convnet", f"--data_dir={data_dir}", "--data_format=channels_last")
    run(
        train_meta_optimizer,
        *common,
        "--batch_size=16",
        "--meta_roll_back=2",
        "--max_steps=2",
        f"--model_dir={tmp_path / 'meta'}",
    )
    run(
        use_meta_optimizer,
        *common,
        "--batch_size=32",
        "--max_steps=3",
        f"--meta_ckpt={tmp_path / 'meta'}",
        f"--model_dir={tmp_path / 'network'}",
    )
    assert np.isfinite(read_lines(tmp_path / "network")[-1]["training_loss"])
