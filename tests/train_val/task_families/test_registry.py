import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from train_val import task_families
from train_val.task_families import registry


@pytest.fixture
def clean():
    """Families of a test are gone after it."""
    before = dict(registry._FAMILIES)
    yield
    registry._FAMILIES.clear()
    registry._FAMILIES.update(before)


def test_settings_make_the_network_and_the_batches():
    problem = task_families.make(
        "mlp:width=5:depth=2:activation=relu:batch_size=7:weight_decay=0.1"
    )
    shapes = [tuple(v.shape) for v in problem.model.trainable_variables]
    assert shapes == [(64, 5), (5,), (5, 5), (5,), (5, 10), (10,)]
    assert problem.model.layers[1].activation is keras.activations.relu
    inputs, _ = next(iter(problem.task.batches(0)))
    assert inputs.shape == (7, 8, 8, 1)
    assert problem.task.regularizer is not None
    assert problem.task.name == (
        "mlp (width 5, depth 2, activation relu) on digits (original), batches of 7, "
        "weight decay 0.1"
    )


def test_what_the_text_says_goes_before_what_is_given():
    one, two = task_families.make_all("mlp:batch_size=9, convnet:width=3", batch_size=4, seed=1)
    sizes = [next(iter(p.task.batches(0)))[0].shape[0] for p in (one, two)]
    assert sizes == [9, 4]
    assert two.name == "convnet"


def test_images_come_as_families_take_them_on_a_gpu_too(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: ["a GPU"])
    arguments = {"task": "convnet:width=2", "data": "digits", "name": "convnet"}
    problem = task_families.problem_of({**arguments, "data_format": "auto"})
    assert not problem.channels_first
    assert next(iter(problem.task.batches(0)))[0].shape[1:] == problem.train.image_shape
    with pytest.raises(ValueError, match="Expected data_format=channels_last"):
        task_families.problem_of({**arguments, "data_format": "channels_first"})


def test_the_part_of_the_images_is_chosen():
    parts = [task_families.make("mlp", part=part).train.images for part in ("train", "meta_train")]
    assert not any(np.array_equal(image, parts[1][0]) for image in parts[0])


def test_a_family_of_ones_own(clean, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import keras\n"
        "from train_val import task_families\n\n"
        "@task_families.family\n"
        "def wide(shape, classes, seed=0, width: int = 100):\n"
        "    layers = [keras.Input(shape), keras.layers.Flatten()]\n"
        "    for units in (width, classes):\n"
        "        kernel = keras.initializers.GlorotUniform(seed + units)\n"
        "        layers.append(keras.layers.Dense(units, kernel_initializer=kernel))\n"
        "    return keras.Sequential(layers)\n"
    )
    arguments = {"task": "wide:width=3", "task_file": str(path), "train_sample": 5, "name": "mlp"}
    problem = task_families.problem_of({**arguments, "batch_size": 4})
    assert problem.model.layers[1].units == 3 and problem.train_sample == 5
    assert "wide" in task_families.names()
    # The same file may be loaded again; another family under a name that is taken may not.
    task_families.problem_of(arguments)
    namespace = {}
    exec("def wide(shape, classes, seed=0): pass", namespace)
    with pytest.raises(ValueError, match="There is a family wide already"):
        task_families.family(namespace["wide"])


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("def bad(shape, classes): pass", r"Expected bad\(shape, classes, seed=0, ...\)"),
        ("def bad(shape, classes, seed=0, width=1, *, depth): pass", "with a default"),
        ("def bad(shape, classes, seed=0, data=1): pass", "Expected settings other than"),
    ],
)
def test_a_family_with_other_arguments_is_refused(clean, source, sentence):
    namespace = {}
    exec(source, namespace)
    with pytest.raises(ValueError, match=sentence):
        task_families.family(namespace["bad"])


def test_a_sample_of_the_images_is_measured():
    whole = task_families.make("mlp:width=4")
    sample = dataclasses.replace(whole, train_sample=10, test_sample=3)
    parameters = whole.task.initialize(1)
    chosen = np.linspace(0, len(whole.train) - 1, 10).round().astype(int)
    images = dataclasses.replace(
        whole.train, images=whole.train.images[chosen], labels=whole.train.labels[chosen]
    )
    by_hand = dataclasses.replace(whole, train=images).training_loss(parameters)
    assert sample.training_loss(parameters) == by_hand != whole.training_loss(parameters)
    assert sample.accuracy(parameters) in (0, 1 / 3, 2 / 3, 1)


def test_a_network_without_a_logit_for_each_class_is_refused_when_it_is_made(clean):
    def layers(classes):
        return [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)]

    class Called(keras.Model):
        def __init__(self, outputs):
            super().__init__()
            self.dense = keras.layers.Dense(outputs)

        def call(self, images):
            return self.dense(keras.ops.reshape(images, (-1, 64)))

    def called(outputs):
        model = Called(outputs)
        model(np.zeros((1, 8, 8, 1), "f"))
        return model

    @task_families.family
    def mine(shape, classes, seed=0, sort: str = "right"):
        del shape, seed
        return {
            "right": lambda: called(classes),
            "few": lambda: keras.Sequential(layers(3)),
            "called": lambda: called(3),
            "flat": lambda: keras.Sequential(layers(10)[::2]),
            "unbuilt": lambda: keras.Sequential(layers(10)[1:]),
            "none": lambda: None,
        }[sort]()

    assert task_families.make("mine").model.built
    for sort in ("few", "called"):
        with pytest.raises(ValueError, match=r"^Expected mine to end in 10 logits, .*\(3,\)"):
            task_families.make(f"mine:sort={sort}")
    with pytest.raises(ValueError, match=r"10 logits.*the shape \(8, 8, 10\)"):
        task_families.make("mine:sort=flat")
    with pytest.raises(ValueError, match=r"built model.*keras.Input\(\(8, 8, 1\)\)"):
        task_families.make("mine:sort=unbuilt")
    with pytest.raises(TypeError, match="^Expected mine to return a built keras.Model, got None"):
        task_families.make("mine:sort=none")
