"""Problems of the user's own: regression, text, segmentation, several inputs, a bare function."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from tests.train_val.commands import run
from train_val import compare_optimizers, task_families
from train_val.comparison import parse
from train_val.comparison.runs import run as train
from train_val.problems.array_problem import of_arrays
from train_val.task_families import ArrayTask, registry

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(60, 4))
TEXT = RANDOM.integers(0, 5, size=(60, 6))
IMAGES = RANDOM.normal(size=(60, 4, 4, 1))


def seeded(seed, number=0):
    return keras.initializers.GlorotUniform(10 * seed + number)


def halves(inputs, targets):
    """Training and test examples."""
    parts = [slice(0, 40), slice(40, 60)]
    return [
        (tf.nest.map_structure(lambda a, p=part: a[p], inputs), targets[part]) for part in parts
    ]


def regression():
    def build(seed):
        layers = [keras.Input((4,)), keras.layers.Dense(1, kernel_initializer=seeded(seed))]
        return keras.Sequential(layers)

    return ArrayTask(*halves(TABLE, TABLE[:, :1] - 2 * TABLE[:, 1:2]), "mean_squared_error", build)


def text():
    def build(seed):
        layers = [keras.Input((6,), dtype="int64"), keras.layers.Embedding(5, 3)]
        layers += [keras.layers.Dense(5, kernel_initializer=seeded(seed))]
        return keras.Sequential(layers)

    loss = custom_op.losses.SoftmaxCrossEntropy(ignore_index=4)
    return ArrayTask(*halves(TEXT, np.roll(TEXT, 1, 1)), loss, build)


def segmentation():
    def build(seed):
        kernel = seeded(seed)
        convolution = keras.layers.Conv2D(2, 3, padding="same", kernel_initializer=kernel)
        normal = keras.layers.BatchNormalization()
        return keras.Sequential([keras.Input((4, 4, 1)), normal, convolution])

    labels = (IMAGES[..., 0] > 0).astype("int32")
    return ArrayTask(*halves(IMAGES, labels), "softmax_cross_entropy", build)


def several():
    def build(seed):
        ends = {"a": keras.Input((4,), name="a"), "b": keras.Input((6,), name="b")}
        joined = keras.layers.Concatenate()([ends["a"], ends["b"]])
        return keras.Model(ends, keras.layers.Dense(2, kernel_initializer=seeded(seed))(joined))

    inputs = {"a": TABLE, "b": TEXT.astype("float64")}
    return ArrayTask(
        *halves(inputs, (TABLE[:, 0] > 0).astype("int64")), "softmax_cross_entropy", build
    )


def function():
    def network(parameters, inputs):
        return inputs @ parameters["dense/kernel"]

    def initialize(seed):
        return {"dense/kernel": tf.random.stateless_normal([4, 1], [seed, 0])}

    pair = halves(TABLE, TABLE[:, :1])
    return ArrayTask(*pair, "squared_error", network=network, initialize=initialize)


@pytest.mark.parametrize("make", [regression, text, segmentation, several, function])
def test_every_kind_is_trained_and_measured(make):
    problem = of_arrays(make(), make.__name__, batch_size=16)
    curve = train(problem, parse("adam:lr=0.05").make({}), 1, 30, 30, accuracy=True)
    assert curve.losses[-1] < 0.95 * curve.losses[0]
    if problem.measured == "test accuracy":
        assert make in (text, segmentation, several)
        assert all(0 <= value <= 1 for value in curve.accuracies)
    else:
        assert curve.accuracies[-1] < 0.95 * curve.accuracies[0]


def test_measures_are_those_of_numpy():
    problem = of_arrays(function(), "function", batch_size=8, weight_decay=0.1)
    parameters = problem.task.initialize(3)
    w = parameters["dense/kernel"].numpy()
    inputs = TABLE.astype("f")
    error = inputs @ w - inputs[:, :1]
    expected = [0.5 * np.mean(np.sum(part**2, 1)) for part in (error[:40], error[40:])]
    assert problem.accuracy(parameters) == pytest.approx(expected[1], rel=1e-5)
    decayed = expected[0] + 0.05 * np.sum(w**2)
    assert problem.training_loss(parameters) == pytest.approx(decayed, rel=1e-5)


def test_ignored_labels_count_nowhere():
    problem = of_arrays(text(), "text", batch_size=8)
    parameters = problem.task.initialize(1)
    _, targets = text().test
    values = [parameters[v.path] for v in problem.model.trainable_variables]
    logits = values[0].numpy()[TEXT[40:]] @ values[1].numpy() + values[2].numpy()
    counted = targets != 4
    expected = np.mean((np.argmax(logits, -1) == targets)[counted])
    assert problem.accuracy(parameters) == pytest.approx(expected)


def test_batches_can_be_asked_for_again():
    """An epoch has each example once, and batch k is the same wherever batches begin."""
    task = of_arrays(several(), "several", batch_size=8).task
    batches = list(itertools.islice(task.batches(0), 6))
    seen = np.concatenate([inputs["a"] for inputs, _ in batches[:5]])
    np.testing.assert_array_equal(np.sort(seen[:, 0]), np.sort(TABLE[:40, 0].astype("f")))
    for one, other in zip(tf.nest.flatten(batches[4:]), _flat(task.batches(4)), strict=True):
        np.testing.assert_array_equal(one, other)


def _flat(batches):
    return tf.nest.flatten(list(itertools.islice(batches, 2)))


FILE = """
import numpy as np
from train_val import task_families
from train_val.task_families import ArrayTask
import tensorflow as tf

@task_families.task
def line(slope: float = 2.0):
    x = np.linspace(-1, 1, 30)[:, None]
    pair = (x, slope * x)
    return ArrayTask(
        pair, pair, "squared_error", network=lambda w, x: x @ w["dense/kernel"],
        initialize=lambda seed: {"dense/kernel": tf.fill([1, 1], 0.1 * seed)})
"""


def test_a_task_file_is_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "_TASKS", {})
    (tmp_path / "mine.py").write_text(FILE)
    run(
        compare_optimizers,
        f"--task_file={tmp_path / 'mine.py'}",
        "--task=line:slope=3:batch_size=10",
        "--optimizers=SGD:lr=0.1/0.3:schedule=linear,AMUSE",
        "--steps=6",
        "--every=3",
        "--seeds=1",
        "--cost_rounds=0",
        "--tuning_settings=3",
        f"--model_dir={tmp_path / 'board'}",
    )
    printed = capsys.readouterr().out
    assert "| test loss | seconds |" in printed and "%" not in printed
    head, sgd, amuse = [
        json.loads(line) for line in (tmp_path / "board/results.jsonl").read_text().splitlines()
    ]
    assert "on 30 of the 30 test examples" in head["test loss"]
    assert len(sgd["tuning"]) == 3 and sgd["title"] == "SGD, schedule linear"
    assert not sgd["inside"] and "SGD, schedule linear lie at the edge of the 3" in printed
    losses = amuse["curves"][0]["losses"]
    assert not amuse["tuning"] and losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"Expected settings among \['batch_size', 'slope'"):
        task_families.make("line:data=digits")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": (TABLE[:3], TABLE[:4])}, "one number of examples"),
        ({"train": TABLE}, r"train= to be \(inputs, targets\)"),
        ({"network": None}, "build=, a function that returns a Keras model, or network="),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    made = function()
    fields = {name: getattr(made, name) for name in ("train", "test", "loss", "network")}
    with pytest.raises(ValueError, match=f"^Expected .*{message}"):
        of_arrays(ArrayTask(**{**fields, "initialize": made.initialize, **change}), "function")
