"""The ResNets under the command lines: state, resuming, wrong checkpoints, the issue's commands."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.runs.checkpoints import Checkpoints
from replay import PrioritizedReplay
from tests.train_val import photographs as made
from tests.train_val.commands import run
from train_val import train_meta_optimizer, use_meta_optimizer, use_meta_resnet_on_imagenet
from train_val.networks.normalization import ExactBatchNormalization
from train_val.problems import image_problems
from train_val.training import loop

SMALL = ("--problem=resnet", "--resnet_size=8", "--data=digits", "--batch_size=16")


def test_moving_statistics_survive_a_kill(tmp_path):
    problem = image_problems.make("resnet", "digits", batch_size=16, resnet_size=8, seed=2)
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(0.05, momentum=0.9))

    def go(folder, steps):
        return loop.train(
            problem, optimizer, steps, model_dir=tmp_path / folder, save_steps=2, progress=False
        )

    whole = go("whole", 4)
    go("part", 2)
    part = go("part", 4)
    initial = mlhf.get_model_state(problem.model)
    assert set(whole.model_state) == set(initial)
    for name, value in whole.model_state.items():
        np.testing.assert_array_equal(value, part.model_state[name])
        assert np.any(value != initial[name])
    for path, value in whole.parameters.items():
        np.testing.assert_array_equal(value, part.parameters[path])
    assert whole.training_loss == part.training_loss


def test_replayed_snapshots_hold_the_moving_statistics(tmp_path):
    def build(seed=0):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3, name="dense1"),
                ExactBatchNormalization(name="norm"),
                keras.layers.ReLU(),
                keras.layers.Dense(2, name="dense2"),
            ],
            name="small",
        )

    model = build()

    def batches(start):
        while True:
            random = np.random.default_rng(start)
            x = random.normal(size=(8, 4)).astype("f") + 2
            yield x, (x[:, 0] > 2).astype(np.int32)
            start += 1

    task = mlhf.Task(
        model, "softmax_cross_entropy", lambda seed: mlhf.get_parameters(build(seed)), batches
    )
    replay = PrioritizedReplay(20, seed=0)
    mlhf.meta_train(
        task, mlhf.MetaHessianFree(0.3), 4, roll_back=2, keep_prob=0.0, replay=replay,
        progress=False,
    )  # fmt: skip
    states = [replay.snapshot(int(number))["model_state"] for number in replay.ids]
    (mean,) = [name for name in states[0] if name.endswith("moving_mean")]
    np.testing.assert_array_equal(states[0][mean], np.zeros(3))
    assert len(states) > 1
    for state in states[1:]:
        # Two steps of m = 0.997 at least, from inputs whose mean is not zero.
        assert np.all(state[mean] != 0)


def test_weight_decay_leaves_normalisation_out_on_imagenet_only(tmp_path):
    folders = made.make_folders(tmp_path)
    photographs = image_problems.make(
        "resnet", "imagenet", data_dir=str(folders), batch_size=4, resnet_size=18, image_size=32,
        weight_decay=1e-4,
    )  # fmt: skip
    small = image_problems.make("resnet", "digits", resnet_size=8, batch_size=4, weight_decay=2e-4)
    for problem, coefficient in ((photographs, 1e-4), (small, 2e-4)):
        parameters = problem.task.initialize(0)
        kinds = mlhf.kinds_of_model(problem.model)
        decaying = [
            np.sum(np.square(value))
            for path, value in parameters.items()
            if problem is small or not kinds[path].startswith("norm")
        ]
        regularizer = problem.task.regularizer
        value = float(regularizer.value(parameters))
        assert value == pytest.approx(coefficient / 2 * sum(decaying), rel=1e-4)
        gradient = regularizer.gradient(parameters)
        product = regularizer.hessian_product(parameters, parameters)
        for path, value in parameters.items():
            factor = coefficient if problem is small or not kinds[path].startswith("norm") else 0
            np.testing.assert_allclose(gradient[path], factor * value, rtol=1e-6)
            np.testing.assert_allclose(product[path], factor * value, rtol=1e-6)


def refusal(module, *arguments):
    with pytest.raises(SystemExit) as end:
        run(module, *arguments)
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


def test_trouble_ends_in_a_sentence(tmp_path, meta_folder):
    new = f"--model_dir={tmp_path / 'new'}"
    # An optimizer that was meta-trained on an MLP has no rule for convolutions.
    assert re.search(
        r"variables of the kinds \['conv_kernel'.*norm",
        refusal(use_meta_optimizer, *SMALL, new, f"--meta_ckpt={meta_folder}", "--max_steps=1"),
    )
    assert "Expected resnet_size of 6n + 2" in refusal(
        use_meta_optimizer, *SMALL, new, "--resnet_size=18", "--optimizer=SGD"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    imagenet = ("--optimizer=SGD", new, "--batch_size=4", "--image_size=32")
    assert "found none of its layouts" in refusal(
        use_meta_resnet_on_imagenet, *imagenet, f"--data_dir={empty}"
    )
    folders = made.make_folders(tmp_path / "folders")
    assert "Expected num_classes=3" in refusal(
        use_meta_resnet_on_imagenet, *imagenet, f"--data_dir={folders}", "--num_classes=7"
    )
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").glob("*.npz"))


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    folder = f"--model_dir={tmp_path}"
    flags = ("--data=digits", "--batch_size=16", "--optimizer=SGD", "--max_steps=1", folder)
    run(use_meta_optimizer, *flags, "--problem=mlp")
    sentence = refusal(use_meta_optimizer, *flags, "--problem=resnet", "--resnet_size=8")
    assert "is of another run (" in sentence
    assert "problem: expected resnet, found mlp" in sentence
    step, saved = Checkpoints(tmp_path).read()
    assert step == 1 and saved["settings"]["problem"] == "mlp"


def test_a_learning_rate_that_diverges_is_a_recorded_result():
    problem = image_problems.make("mlp", "digits", batch_size=16)
    # SGD's weights overflow; K-FAC's damped steps end at a loss of some 1e32, which is finite.
    for optimizer, overflows in (
        (mlhf.FirstOrder(keras.optimizers.SGD(1e38)), True),
        (mlhf.KFAC(1e30, 1e-3), False),
    ):
        result = loop.train(problem, optimizer, 60, progress=False)
        assert result.diverged == overflows
        assert (result.steps < 60) == overflows
        assert result.training_loss > 1e6
        assert len(result.history) == result.steps
        assert all(np.all(np.isfinite(value)) for value in result.parameters.values())


@pytest.mark.slow
@pytest.mark.data
def test_the_commands_as_they_are_written(data_dir, tmp_path):
    if not (data_dir / "imagenet-mini").is_dir():
        pytest.skip(f"no imagenet-mini in {data_dir}")
    log = tmp_path / "resnet_log"
    run(
        train_meta_optimizer,
        *f"--data_dir={data_dir} --batch_size=128 --meta_roll_back=10 --resnet_size=20"
        f" --model_dir={log} --keep_prob=0.5 --data_format=channels_last --meta_lr=1e-2"
        " --epochs_per_eval=250 --problem=resnet --x_use=x --y_use=rnn --CG_iter=4"
        " --max_steps=1 --batch_size=4 --meta_roll_back=2".split(),
    )
    run(
        use_meta_resnet_on_imagenet,
        *f"--data_dir={data_dir}/imagenet-mini --batch_size=64 --resnet_size=18"
        f" --model_dir={tmp_path / 'eval_resnet'} --data_format=channels_last --problem=resnet"
        f" --optimizer=meta --lr=1 --meta_ckpt={log} --x_use=x --y_use=rnn --CG_iter=4"
        " --max_steps=1 --batch_size=8 --image_size=32".split(),
    )
    _, saved = Checkpoints(tmp_path / "eval_resnet").read()
    assert saved["model_state"]
    assert all(np.all(np.isfinite(leaf)) for leaf in tf.nest.flatten(dict(saved["parameters"])))
    run(
        use_meta_optimizer,
        f"--data_dir={data_dir}",
        *SMALL[:2],
        "--batch_size=16",
        f"--model_dir={tmp_path / 'kfac'}",
        "--optimizer=kfac",
        "--max_steps=2",
    )
