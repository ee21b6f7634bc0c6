import json
import re

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.runs import debugging
from replay import PrioritizedReplay, read_structure
from tests.train_val import photographs as made
from tests.train_val.commands import DIGITS, kill_at, run, start
from train_val import train_meta_optimizer
from train_val.data import cifar10
from train_val.problems import image_problems

LOGGED = (
    "hession_loss", "meta_loss", "meta_loss_same_batch", "meta_loss_next_batch", "base_loss",
    "loss", "r_loss", "var_length", "grad_length", "grad_rate", "learning_rate",
)  # fmt: skip


def read_lines(folder):
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(first, second):
    first, second = (read_structure(folder / "meta_optimizer.npz") for folder in (first, second))
    np.testing.assert_array_equal(first["about"], second["about"])
    assert first["weights"].keys() == second["weights"].keys() == {"y", "d"}
    for role, fields in first["weights"].items():
        for field, value in fields.items():
            np.testing.assert_array_equal(value, second["weights"][role][field])


def test_killed_and_continued_ends_with_the_same_bits(meta_flags, meta_folder, tmp_path):
    flags = (*meta_flags, f"--model_dir={tmp_path}")
    process = start("train_meta_optimizer", *flags)
    kill_at(process, tmp_path / "checkpoint-000000003.npz")
    assert not (tmp_path / "checkpoint-000000016.npz").exists()
    run(train_meta_optimizer, *flags)
    assert_same_weights(tmp_path, meta_folder)
    for killed, whole in zip(read_lines(tmp_path), read_lines(meta_folder), strict=True):
        assert {**killed, "seconds": 0} == {**whole, "seconds": 0}


def test_a_run_leaves_its_record_and_the_optimizer(meta_folder):
    lines = read_lines(meta_folder)
    assert [line["step"] for line in lines] == list(range(1, 17))
    assert set(LOGGED) < set(lines[0])
    assert "g_length_in_A" not in lines[0]
    assert list(meta_folder.glob("events.out.tfevents.*"))
    assert sorted(path.name for path in meta_folder.glob("checkpoint-*")) == [
        "checkpoint-000000015.npz",
        "checkpoint-000000016.npz",
    ]
    settings = mlhf.MetaHessianFree.from_pretrained(meta_folder).settings
    assert settings["cg_iterations"] == 3 and settings["learning_rate"] == 1.0


def test_rollouts_begin_from_an_experience_and_log_their_own_numbers(tmp_path, capsys):
    parameters = image_problems.make("mlp", "digits").task.initialize(7)
    far = {path: value.numpy() + 2.0 for path, value in parameters.items()}
    with PrioritizedReplay(1, tmp_path / "experience", "proportional") as experience:
        experience.add({"parameters": far, "model_state": ()})
        experience.save()
    flags = (*DIGITS, "--meta_roll_back=2", "--max_steps=2", "--epochs_per_eval=1")
    folder = tmp_path / "run"
    run(
        train_meta_optimizer,
        *flags,
        "--print_log_in_meta_optimizer",
        f"--experience={tmp_path}",
        f"--model_dir={folder}",
    )
    first = read_lines(folder)[0]
    square = sum(np.sum(np.square(value, dtype=np.float64)) for value in far.values())
    # A step goes at most a quarter of the way: lengths show where the rollout began.
    assert 0.5 * square**0.5 < first["w_norm"] < 1.6 * square**0.5
    assert first["g_length_in_A"] > 0
    assert first["g_square"] ** 0.5 * first["x_by_g"] > 0
    printed = capsys.readouterr().out
    assert "step 2: ‖x‖/‖g‖" in printed and "‖g‖²/√<g, A g>" in printed
    assert f"2 meta-steps; the optimizer is in {folder}" in printed


def test_a_meta_step_that_is_not_finite_leaves_no_trace(tmp_path):
    """Inputs are NaN in the second meta-step."""

    def batches(start):
        for k in range(start, 100):
            inputs = np.random.default_rng(k).normal(size=(4, 2)).astype(np.float32)
            yield (inputs * np.nan if k in (2, 3) else inputs), np.arange(4, dtype=np.int32) % 2

    task = mlhf.Task(
        lambda p, x: tf.matmul(x, p["dense/kernel"]),
        "softmax_cross_entropy",
        lambda seed: {"dense/kernel": tf.ones([2, 2]) * (1 + seed) * [[1.0, -1.0]]},
        batches,
    )
    named = []
    optimizer = mlhf.MetaHessianFree(cg_iterations=1, seed=1)

    result = mlhf.meta_train(
        task,
        optimizer,
        4,
        roll_back=2,
        model_dir=tmp_path,
        save_steps=1,
        progress=False,
        on_not_finite=lambda repeat: named.append(debugging.name_not_finite(repeat)),
    )
    assert result.skipped == 1 and not result.diverged
    assert [line["skipped"] for line in result.history] == [0, 1, 1, 1]
    assert result.history[1]["loss"] is None and result.history[2]["loss"] is not None
    assert result.history[2]["var_length"] != result.history[0]["var_length"]
    assert len(named) == 1 and named[0].startswith(
        "Not finite: an input of the computation of shape (2, 4, 2)"
    )


def test_the_rate_falls_at_the_epochs_really_seen():
    rate = train_meta_optimizer.schedule(1e-2, 64 * 10, 30_000)
    epoch = 30_000 / 640
    found = [rate(int(epoch * number) + 1) for number in (0, 149, 150, 189, 190, 219, 220, 249)]
    np.testing.assert_allclose(found, [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    with pytest.raises(ValueError, match="Expected meta_lr to be a finite number above 0"):
        train_meta_optimizer.schedule(-1.0, 1, 1)


def test_epochs_of_a_mixture_are_those_of_its_own_batches(monkeypatch):
    seen = {}

    def evolve(tasks, optimizer, steps, **arguments):
        seen.update(arguments, steps=steps)
        return mlhf.MetaTraining(optimizer, [], 0, 0.0)

    monkeypatch.setattr(mlhf, "evolve", evolve)
    run(
        train_meta_optimizer,
        "--tasks=mlp:width=4:batch_size=50,mlp:width=6:batch_size=150",
        "--data=digits",
        "--estimator=pes",
        "--meta_roll_back=3",
        "--horizon=99",
        "--train_epochs=200",
        "--meta_lr=1",
    )
    # 750 images of two tasks, 100 on average in a batch.
    assert seen["steps"] == 200 * 2 * 750 / (100 * 3)
    assert [round(seen["meta_lr"](step), 3) for step in (749, 750, 949, 950)] == [1, 0.1, 0.1, 0.01]


def test_tasks_on_photographs_have_the_size_asked_for_and_are_kept_under_these(
    monkeypatch, tmp_path
):
    found, kept = [], []
    make = train_meta_optimizer.make_problems
    monkeypatch.setattr(
        train_meta_optimizer, "make_problems", lambda: found.extend(make()) or found
    )
    monkeypatch.setattr(
        train_meta_optimizer.run_settings, "check", lambda _, settings: kept.append(settings)
    )
    monkeypatch.setattr(mlhf, "evolve", lambda _, optimizer, *__, **___: mlhf.MetaTraining(
        optimizer, [], 0, 0.0))  # fmt: skip
    folder = made.make_folders(tmp_path)
    run(
        train_meta_optimizer, "--tasks=mlp:width=4:batch_size=2", "--data=imagenet",
        f"--data_dir={folder}", "--image_size=16", "--estimator=pes", f"--model_dir={tmp_path}",
    )  # fmt: skip
    (problem,), (settings,) = found, kept
    assert problem.train.image_size == 16
    assert settings["image_size"] == "16" and settings["images"] == problem.image_fingerprint


def test_a_report_has_means_of_its_epochs():
    lines = []
    report = train_meta_optimizer.Report(2.5, 2, write=lines.append)
    for step in range(1, 11):
        values = {"loss": step, "meta_loss": -step, "hession_loss": 0.0, "skipped": 1}
        report(step, values)
    assert lines == [
        "epoch 2, 5 meta-steps: loss 3.0000, meta_loss -3.0000, hession_loss 0.0000 "
        "(means of the last 5), 1 skipped",
        "epoch 4, 10 meta-steps: loss 8.0000, meta_loss -8.0000, hession_loss 0.0000 "
        "(means of the last 5), 1 skipped",
    ]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--batch_size=751"], "Expected a batch size from 1 to 750"),
        (["--y_use=none", "--d_use=none"], "There is nothing to learn"),
        (["--lr=-1"], "Expected --lr to be a finite number above 0"),
        (["--decay=2"], "Expected --decay to be a finite number above 0"),
        (["--meta_lr=0"], "Expected --meta_lr to be a finite number above 0"),
        (["--experience={tmp}"], "Expected a recorded experience in {tmp}"),
        (["--data=cifar10", "--data_dir={tmp}"], "Expected CIFAR-10's binary files"),
        (["--data=cifar10", "--data_dir={tmp}/cut"], "Expected 10,000 records of 3,073 bytes"),
        (
            ["--horizon=5"],
            "Expected horizon with estimator=pes or es only, got it with .*=backprop",
        ),
        (["--estimator=pes", "--keep_prob=0.5"], "Expected keep_prob with estimator=backprop"),
        (["--estimator=es"], "Expected lr with estimator=backprop or pes only"),
        (["--tasks=mlp:width=3"], "Expected tasks or problem, got both: mlp:width=3 and mlp"),
        (["--task_file=x"], "Expected tasks of the families that x defines"),
        (["--estimator=pes", "--debug_grad"], "Expected debug_grad with estimator=backprop only"),
        (["--model_dir={tmp}/file"], "Expected a folder to write to, got {tmp}/file"),
        (["--model_dir={meta}"], "batches of 32, found mlp|lr: expected 0.5, found 1.0"),
    ],
)
def test_trouble_ends_in_a_sentence(arguments, sentence, meta_folder, tmp_path):
    (tmp_path / "file").write_text("")
    cut = tmp_path / "cut" / cifar10.FOLDER
    cut.mkdir(parents=True)
    for number in (1, 2, 3):
        (cut / f"data_batch_{number}.bin").write_bytes(b"\0" * 3073)
    places = {"tmp": tmp_path, "meta": meta_folder}
    arguments = [argument.format(**places) for argument in arguments]
    before = {path: path.stat().st_size for path in meta_folder.rglob("*")}
    with pytest.raises(SystemExit) as end:
        run(
            train_meta_optimizer,
            *DIGITS,
            "--max_steps=2",
            "--lr=0.5",
            f"--model_dir={tmp_path / 'new'}",
            *arguments,
        )
    text = str(end.value)
    assert end.value.code in (2, text) and "\n" not in text  # a text as the code is status 1
    assert re.search(sentence.format(**places), text), text
    assert not list((tmp_path / "new").rglob("*.npz"))
    assert before == {path: path.stat().st_size for path in meta_folder.rglob("*")}


@pytest.mark.slow
def test_a_mixture_of_tasks_is_meta_trained_in_turns(tmp_path):
    run(
        train_meta_optimizer,
        "--tasks=mlp:width=4,mlp:width=6:batch_size=16",
        "--data=digits",
        "--batch_size=8",
        "--meta_roll_back=2",
        "--CG_iter=1",
        "--max_steps=4",
        f"--model_dir={tmp_path}",
    )
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == [0, 1, 0, 1]
    assert (tmp_path / "meta_optimizer.npz").exists()


def test_evolution_strategies_by_flags(tmp_path, capsys):
    flags = (
        *DIGITS,
        "--estimator=pes",
        "--input_scale=rms",
        "--meta_roll_back=2",
        "--horizon=4",
        "--pairs=2",
        "--CG_iter=2",
        "--max_steps=3",
        "--layers=output",
        "--initial_damping=0.2",
    )
    folder = tmp_path / "first"
    run(train_meta_optimizer, *flags, f"--model_dir={folder}")
    lines = read_lines(folder)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"loss", "log_loss", "rate", "difference"} < set(lines[0])
    loaded = mlhf.MetaHessianFree.from_pretrained(folder)
    assert loaded.settings["input_scale"] == "rms"
    assert loaded.learning_rate == lines[-1]["rate"] != 1.0
    # softplus of the bias, little moved
    assert np.log1p(np.exp(loaded.weights["d"].dense_bias)) == pytest.approx(0.2, abs=0.05)
    assert "3 meta-steps" in capsys.readouterr().out

    # Other flags than the folder's do not go unnoticed, more steps and a faster way are welcome.
    with pytest.raises(SystemExit) as end:
        run(train_meta_optimizer, *flags, "--lr=3", "--pairs=1", f"--model_dir={folder}")
    assert re.search(r"lr: expected 3\.0, found 1\.0; pairs: expected 1, found 2", end.value.code)
    run(train_meta_optimizer, *flags, "--max_steps=4", f"--model_dir={folder}")
    lines = read_lines(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    loaded = mlhf.MetaHessianFree.from_pretrained(folder)

    # Going on from there: the rule is the file's where no flag says otherwise.
    flags = (*DIGITS, f"--meta_ckpt={folder}", "--max_steps=1", "--meta_roll_back=2")
    run(train_meta_optimizer, *flags, "--CG_iter=3", f"--model_dir={tmp_path / 'second'}")
    again = mlhf.MetaHessianFree.from_pretrained(tmp_path / "second")
    assert again.settings == {**loaded.settings, "cg_iterations": 3}
    moved = again.weights["d"].dense_bias - loaded.weights["d"].dense_bias
    assert 0 < np.max(np.abs(moved)) < 0.01


def test_evolution_of_a_controller_from_nothing_and_further(tmp_path, capsys):
    flags = [
        "--data=digits",
        "--tasks=mlp:width=4:batch_size=50,mlp:width=6:depth=1:batch_size=20",
        "--estimator=es",
        "--horizon=12",
    ]
    run(train_meta_optimizer, *flags, "--max_steps=2", f"--model_dir={tmp_path / 'first'}")
    assert "metamuon:weights=" in capsys.readouterr().out
    learned = mlhf.MetaMuon(5, weights=tmp_path / "first" / "controller.npz").weights
    change = np.abs(learned.lengths).max()
    # Two of Adam's steps of 0.4 σ, with σ = 0.1.
    assert 0.02 < change <= 0.0801 and np.all(learned.outputs == 0)
    further = (f"--meta_ckpt={tmp_path / 'first'}", f"--model_dir={tmp_path / 'second'}")
    run(train_meta_optimizer, *flags, "--max_steps=1", "--meta_lr=0.1", *further)
    again = mlhf.MetaMuon(5, weights=tmp_path / "second" / "controller.npz").weights
    np.testing.assert_allclose(np.abs(again.lengths - learned.lengths).max(), 0.01, rtol=1e-3)
