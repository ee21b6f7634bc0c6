import re

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from mlhf.hypergrad import read_records
from mlhf.hypergrad.methods import METHODS
from tests.train_val.commands import kill_at, run, start
from train_val import tune_hyperparameters
from train_val.cli import exit_statuses
from train_val.problems import hyperparameters

SMALL = ("--data=digits", "--steps=5", "--max_steps=2", "--train_examples=300")


def records_of(folder, *arguments):
    run(tune_hyperparameters, *SMALL, f"--model_dir={folder}", *arguments)
    return read_records(folder)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """What `reverse` finds."""
    return records_of(tmp_path_factory.mktemp("reverse"))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "reverse"])
def test_every_method_runs_with_its_defaults(method, exact, tmp_path, capsys):
    records = records_of(tmp_path, f"--method={method}")
    assert [record["step"] for record in records] == [1, 2]
    printed = capsys.readouterr().out
    assert f"2 outer steps: validation loss {records[0]['valid_loss']:.4f}" in printed
    assert ("norm of the gradient after training" in printed) == (method == "implicit")
    assert ("`reversible` rounds it to multiples of 1/65536: 0." in printed) == (
        method == "reversible"
    )
    assert (tmp_path / "curves.png").stat().st_size > 5000
    found = records[0]["hypergradient"]
    if method == "implicit":
        assert set(found) == {"l2"} and found["l2"] != 0
        return
    assert set(found) == {"l2", "learning_rate", "momentum"}
    if method == "drmad":  # a direction, of one point here
        assert np.isfinite(list(found.values())).all()
        return
    for name, value in exact[0]["hypergradient"].items():
        # The same training but for the rounded momentum of `reversible`.
        np.testing.assert_allclose(found[name], value, rtol=2e-3, err_msg=name)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_mnist(method, data_dir, tmp_path):
    run(
        tune_hyperparameters,
        *(f"--method={method}", "--problem=mlp", "--data=mnist", "--steps=5", "--max_steps=2"),
        *(f"--data_dir={data_dir / 'mnist'}", f"--model_dir={tmp_path}"),
    )
    first, last = read_records(tmp_path)
    assert last["valid_loss"] < first["valid_loss"]


def test_schedules_and_images_are_learned_and_drawn(tmp_path, capsys):
    records = records_of(
        tmp_path,
        "--method=reversible",
        "--start=momentum=0.8",
        "--hyperparameters=learning_rate:step+layer,momentum:layer,images,labels,example_weights",
        "--train_examples=10",
        "--outer_lr=0.01,images=0.5",
        "--projection=example_weights=capped_simplex:9",
        "--estimate",
    )
    first, last = (record["hyperparameters"] for record in records)
    assert last["learning_rate"].shape == (5, 4) and np.ptp(last["learning_rate"]) > 0
    np.testing.assert_allclose(first["momentum"], np.full([1, 4], 0.8), rtol=1e-6)
    moved = np.abs(last["images"] - first["images"])
    assert moved.shape == (10, 8, 8, 1)
    np.testing.assert_allclose(moved.max(), 0.5, rtol=0.05)  # the size of a step of Adam
    np.testing.assert_allclose(last["labels"].sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(last["example_weights"].sum(), 9, rtol=1e-5)
    printed = capsys.readouterr().out
    assert "images: 640 numbers from" in printed
    assert re.search(r"^reversible .* exact\b", printed, re.MULTILINE)
    for name in ("curves", "schedules", "images"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def interrupted_after(steps, monkeypatch, *arguments):
    whole_step = hypergrad.HyperOptimizer._outer_step

    def step(self):
        if self.step == steps:
            raise KeyboardInterrupt
        return whole_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(hypergrad.HyperOptimizer, "_outer_step", step)
        with pytest.raises(SystemExit) as end:
            run(tune_hyperparameters, *arguments)
        assert end.value.code == exit_statuses.INTERRUPTED


@pytest.mark.parametrize("process", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_and_continued_ends_with_the_same_bits(process, monkeypatch, tmp_path, capsys):
    arguments = (
        *("--data=digits", "--steps=4", "--max_steps=14", "--train_examples=50"),
        *("--method=truncated", "--problem=softmax", "--hyperparameters=log_l2:weight"),
        *("--sharing=units", "--sign"),
    )
    place = f"--model_dir={tmp_path / 'killed'}"
    if process:
        process = start("tune_hyperparameters", *arguments, place)
        kill_at(process, tmp_path / "killed" / "checkpoint-000000002.npz")
    else:
        interrupted_after(7, monkeypatch, *arguments, place)
    assert not (tmp_path / "killed" / "curves.png").exists()
    for name in ("killed", "whole"):
        run(tune_hyperparameters, *arguments, f"--model_dir={tmp_path / name}")
    killed, whole = (read_records(tmp_path / name) for name in ("killed", "whole"))
    assert len(killed) == len(whole) == 14
    for a, b in zip(killed, whole, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)
    kernel = whole[-1]["hyperparameters"]["log_l2"]["softmax/output/kernel"]
    np.testing.assert_array_equal(kernel, kernel[:, :1].repeat(10, 1))  # shared by input
    assert (tmp_path / "killed" / "log_l2.png").stat().st_size > 5000
    # All done: it says so once more. With other flags the folder is another run's.
    capsys.readouterr()
    run(tune_hyperparameters, *arguments, f"--model_dir={tmp_path / 'killed'}")
    assert "14 outer steps" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"of another run \(steps: expected 6, found 4\)"):
        run(tune_hyperparameters, *arguments, "--steps=6", f"--model_dir={tmp_path / 'killed'}")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--method=implicit", "--hyperparameters=learning_rate"], "Use reverse, reversible"),
        (["--method=truncated", "--truncation=2", "--hyperparameters=momentum:step"], "window"),
        (["--method=truncated", "--truncation=2", "--hyperparameters=initial_weights"], "first st"),
        (["--method=drmad", "--hyperparameters=learning_rate:step"], "points=5, all steps"),
        (["--method=reversible", "--dynamics=adam"], "Use `reverse`"),
        (["--method=reversible", "--momentum=0"], "choose a small one"),
        (["--method=forward", "--hyperparameters=images"], "at most 2,000 numbers"),
        (["--method=implicit", "--solver=cg"], "Expected a positive definite system"),
        (
            ["--method=implicit", "--hyperparameters=example_weights"],
            "solver=gauss_newton without example_weights",
        ),
        (["--hyperparameters=rate"], "Expected hyperparameters among learning_rate, momentum, l1"),
        (["--hyperparameters=l2,l2:layer"], "each once"),
        (["--dynamics=gd", "--hyperparameters=momentum"], "got 'momentum'"),
        (["--hyperparameters=l2:step"], "Expected l2 or l2:layer or l2:weight, got 'l2:step'"),
        (["--hyperparameters=initial_scale,initial_weights"], "got both"),
        (["--outer_lr=fast"], "Expected outer_lr as a number or name=number, got 'fast'"),
        (["--outer_lr=l1=1"], "Expected outer_lr of learning_rate, momentum, l2"),
        (["--outer_lr=-1"], "at least 0, got -1.0"),
        (["--start=l2"], "Expected start as name=number, got 'l2'"),
        (["--start=l1=1"], r"got one of \['l1'\]"),
        (["--lr=-1"], "Expected --lr to be a finite number above 0, got -1.0"),
        (["--lr=1e30", "--max_steps=9"], "Training is not finite"),
        (["--projection=l2=ball:1"], "a kind among box, capped_simplex"),
        (["--projection=l2=box:2:1"], "Expected low <= high"),
        (["--sharing=units"], "such as l2:weight"),
        (["--hyperparameters=l2:weight", "--sign"], "Expected sign together with sharing"),
        (["--points=3"], "Expected points with method=drmad only"),
        (["--data=mnist", "--data_dir={tmp}"], "Expected MNIST's train-images"),
        (["--model_dir={tmp}/file"], "Expected a folder to write to"),
    ],
    ids=lambda value: "".join(value)[2:60] if isinstance(value, list) else "",
)
def test_trouble_ends_in_a_sentence(arguments, sentence, tmp_path):
    (tmp_path / "file").write_text("nothing")
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    with pytest.raises(SystemExit) as end:
        run(tune_hyperparameters, *SMALL, f"--model_dir={tmp_path / 'new'}", *arguments)
    text = str(end.value)
    assert end.value.code in (2, text) and "\n" not in text  # a text as the code is status 1
    assert re.search(sentence, text), text
    assert not list((tmp_path / "new").rglob("curves.png"))


@pytest.mark.parametrize("flag", ["--lr=fast", "--method=backprop", "--steps=0", "--data=cats"])
def test_a_bad_flag_is_named(flag):
    with pytest.raises(SystemExit, match=flag[2:].split("=")[0]) as end:
        run(tune_hyperparameters, flag)
    assert end.value.code == 2


@pytest.fixture(scope="module")
def tuning():
    names = ["l1:weight", "l2:layer", "log_l2", "example_weights", "initial_scale:layer"]
    return hyperparameters.Tuning(
        names,
        data="digits",
        dynamics=hypergrad.Momentum(),
        steps=5,
        batch_size=40,
        train_examples=100,
        valid_examples=70,
    )


def test_the_training_loss_is_the_written_one(tuning):
    random = np.random.default_rng(0)
    hyper = tf.nest.map_structure(
        lambda leaf: tf.constant(random.uniform(0.1, 1, leaf.shape), tf.float32), tuning.start
    )
    weights = tuning.weights(3)
    loss = tuning.problem.call_train(weights, hyper, tf.constant(2), None, tf.constant(7))

    data = tuning.train
    # Batches of a seed show every image once before any comes again.
    order = [tuning._batch(tf.range(100), step, 7).numpy() for step in range(5)]
    np.testing.assert_array_equal(np.sort(np.concatenate(order)), np.repeat(np.arange(100), 2))
    pixels = data.images[order[2]].reshape(40, 64) / 1.0
    inputs = (pixels - data.pixel_mean) / data.pixel_std
    w = {path.partition("/")[2]: leaf.numpy() for path, leaf in weights.items()}
    hidden = 1 / (1 + np.exp(-(inputs @ w["hidden/kernel"] + w["hidden/bias"])))
    z = hidden @ w["output/kernel"] + w["output/bias"]
    each = np.log(np.exp(z).sum(1)) - z[np.arange(40), data.labels[order[2]]]
    expected = np.mean(each * hyper["example_weights"].numpy()[order[2]])
    for i, path in enumerate(sorted(weights)):
        leaf = weights[path].numpy()
        expected += (hyper["l1"][path].numpy() * np.abs(leaf)).sum()
        expected += (hyper["l2"].numpy()[0, i] + np.exp(hyper["log_l2"])) * (leaf**2).sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_initial_weights_have_the_scale_learned(tuning):
    scale = tf.constant([[1.0, 2.0, 3.0, 4.0]])
    made = tuning.problem.call_initial({"initial_scale": scale}, tf.constant(1))
    other = tuning.problem.call_initial({"initial_scale": scale}, tf.constant(2))
    kernel = made["mlp/output/kernel"]
    np.testing.assert_allclose(np.std(kernel), 4 * 0.01, rtol=0.2)
    assert np.abs(kernel - other["mlp/output/kernel"]).max() > 0.01
