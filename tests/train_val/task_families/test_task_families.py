import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
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


@pytest.mark.parametrize("family", ["convnet", "residual", "resnet"])
def test_images_are_shrunk_by_means(family):
    shrunk = task_families.make(f"{family}:width=2:shrink=2", seed=0).model
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    means = images.reshape(3, 4, 2, 4, 2, 1).mean((2, 4))
    np.testing.assert_allclose(shrunk.get_layer("shrunk")(images), means, rtol=1e-5, atol=1e-6)
    # What comes after it sees nothing of the images but their means.
    swapped = images.reshape(3, 4, 2, 4, 2, 1)[:, :, ::-1].reshape(images.shape)
    np.testing.assert_allclose(shrunk(images), shrunk(swapped), rtol=1e-4, atol=1e-5)


def test_images_come_as_families_take_them_on_a_gpu_too(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: ["a GPU"])
    arguments = {"task": "convnet:width=2", "data": "digits", "name": "convnet"}
    problem = task_families.problem_of({**arguments, "data_format": "auto"})
    assert not problem.channels_first
    assert next(iter(problem.task.batches(0)))[0].shape[1:] == problem.train.image_shape
    with pytest.raises(ValueError, match="Expected data_format=channels_last"):
        task_families.problem_of({**arguments, "data_format": "channels_first"})


def test_widths_of_the_resnet():
    model = task_families.make("resnet:width=3:size=14").model
    kernels = [v.shape for v in model.trainable_variables if len(v.shape) == 4]
    assert {shape[-1] for shape in kernels} == {3, 6, 12} and len(kernels) == 1 + 6 * 2 + 3


def test_the_part_of_the_images_is_chosen():
    parts = [task_families.make("mlp", part=part).train.images for part in ("train", "meta_train")]
    assert not any(np.array_equal(image, parts[1][0]) for image in parts[0])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("mlp:width=6:batch_size=16", marks=pytest.mark.slow),
        pytest.param("convnet:width=3:dense=8:batch_size=16", marks=pytest.mark.slow),
        pytest.param("residual:width=3:batch_size=16", marks=pytest.mark.slow),
        pytest.param("resnet:width=2:shrink=2:batch_size=16", marks=pytest.mark.slow),
        pytest.param("mlp:width=6:depth=3:activation=gelu:batch_size=16", marks=pytest.mark.slow),
    ],
)
def test_the_families_pass_their_own_smoke_test(text):
    task_families.smoke_test(task_families.make(text))


def linear_task(**changes):
    """A task without Keras that passes, but for what is changed."""

    def batches(start):
        k = start
        while True:
            numbers = np.random.default_rng(k)
            inputs = numbers.normal(size=(8, 3)).astype(np.float32)
            yield inputs, (inputs.sum(1) > 0).astype(np.int32)
            k += 1

    def initialize(seed):
        return {"dense/kernel": tf.random.stateless_normal([3, 2], [seed, 0])}

    task = mlhf.Task(
        lambda parameters, inputs: inputs @ parameters["dense/kernel"],
        "softmax_cross_entropy",
        initialize,
        batches,
    )
    return dataclasses.replace(task, **changes)


def test_a_task_without_keras_passes():
    task_families.smoke_test(linear_task())


def _jumping(start):
    yield from linear_task().batches(start * 1000)


def _growing(start):
    for k in range(start, start + 5):
        yield np.ones((3 + k, 3), np.float32), np.zeros(3 + k, np.int32)


def _once(start):
    yield np.ones((3, 3), np.float32), np.zeros(3, np.int32)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"initialize": lambda s: {"dense/kernel": tf.ones([3, 2])}}, "depend on the seed"),
        (
            {"initialize": lambda s: {"dense/kernel": tf.fill([3, 2], np.nan)}},
            "parameters that are not finite",
        ),
        (
            {"initialize": lambda s: {"dense/kernel": tf.random.normal([3, 2])}},
            "something else each time",
        ),
        ({"batches": _jumping}, "batch k has to be the same"),
        ({"batches": _growing}, "several shapes"),
        ({"batches": _once}, "ends after fewer than 3"),
        (
            {"network": lambda p, x: x @ p["dense/kernel"] / 0.0},
            "the initial loss is",
        ),
        (
            {"network": lambda p, x: x @ (p["dense/kernel"] * [[1.0], [1.0], [1.0]]) * 0.0},
            "the gradient of dense/kernel is zero everywhere",
        ),
    ],
)
def test_a_task_that_is_wrong_is_told_so(changes, sentence):
    with pytest.raises(AssertionError, match=sentence):
        task_families.smoke_test(linear_task(**changes))


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
