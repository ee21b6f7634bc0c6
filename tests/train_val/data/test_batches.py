import itertools

import numpy as np
import pytest
import tensorflow as tf

from train_val import data as image_data
from train_val.data import Batches, ImageData


def make_data(count=50, size=8, channels=3, **options):
    # The label is the image's number: a batch tells which images it is made of.
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)
    return ImageData(images, np.arange(count, dtype=np.int32), count, "made up", **options)


def collect(dataset):
    return [(inputs.numpy(), labels.numpy()) for inputs, labels in dataset]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for (inputs, labels), (other_inputs, other_labels) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(inputs, other_inputs)
        np.testing.assert_array_equal(labels, other_labels)


@pytest.mark.parametrize("count, batch_size", [(50, 10), (50, 7), (7, 7), (7, 5), (1, 1), (33, 1)])
def test_every_image_comes_once_an_epoch(count, batch_size):
    batches = Batches(make_data(count), batch_size, seed=3)
    epochs = 4
    steps = -(-epochs * count // batch_size)
    row = np.concatenate([labels for _, labels in collect(batches.dataset(steps=steps))])
    row = row[: epochs * count].reshape(epochs, count)
    np.testing.assert_array_equal(np.sort(row, axis=1), np.tile(np.arange(count), (epochs, 1)))
    if count > 10:
        for first, second in itertools.combinations(row, 2):
            assert not np.array_equal(first, second)


def test_shuffle_is_uncorrelated():
    # With the default rounds of the op, the first is off by 25 deviations, the second by 70.
    count = 30_000
    data = ImageData(np.zeros((count, 1, 1, 1), np.uint8), np.zeros(count, np.int32), 1, "made up")
    batches = Batches(data, count, seed=0)
    epochs = [batches.indices(epoch).numpy() for epoch in range(4)]
    for order, next_order in itertools.pairwise(epochs):
        deviation = count**-0.5
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 5 * deviation
        assert abs(np.corrcoef(order, next_order)[0, 1]) < 5 * deviation
        assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < 5 * deviation


def test_order_is_kept_across_versions():
    # A run that was begun with another version of TensorFlow continues with its batches.
    batches = Batches(make_data(), 10, seed=0)
    np.testing.assert_array_equal(batches.indices(0), [7, 6, 39, 46, 29, 16, 13, 10, 25, 9])
    np.testing.assert_array_equal(batches.indices(7), [6, 42, 35, 43, 49, 22, 38, 45, 17, 40])


@pytest.mark.parametrize("rollout", [None, 3])
@pytest.mark.parametrize("augment", [True, False])
def test_start_continues_bit_for_bit(rollout, augment):
    data = make_data(augment=augment)
    whole = collect(Batches(data, 7, seed=5, rollout=rollout).dataset(steps=12))
    assert_same(collect(Batches(data, 7, seed=5, rollout=rollout).dataset(7, steps=5)), whole[7:])
    skipped = Batches(data, 7, seed=5, rollout=rollout).dataset().skip(7).take(5)
    assert_same(collect(skipped), whole[7:])


def test_batch_by_itself_is_the_pipelines():
    batches = Batches(make_data(augment=True), 7, seed=5)
    for k, (inputs, labels) in enumerate(collect(batches.dataset(steps=9))):
        alone, alone_labels = batches.batch(k)
        np.testing.assert_array_equal(labels, alone_labels)
        np.testing.assert_allclose(inputs, alone, rtol=1e-6, atol=1e-6)


def test_seeds_differ_in_order_and_augmentation():
    data = make_data(augment=True)
    (first, labels), (second, other_labels) = (Batches(data, 50, seed=s).batch(0) for s in (0, 1))
    assert not np.array_equal(labels, other_labels)
    first, second = first.numpy()[np.argsort(labels)], second.numpy()[np.argsort(other_labels)]
    assert np.any(first != second, axis=(1, 2, 3)).mean() > 0.9


def test_augmentation_differs_between_epochs():
    data = make_data(augment=True)
    batches = Batches(data, 50, seed=0)
    seen = [inputs[np.argsort(labels)] for inputs, labels in collect(batches.dataset(steps=3))]
    for first, second in itertools.combinations(seen, 2):
        assert np.any(first != second, axis=(1, 2, 3)).mean() > 0.9
    plain = Batches(data, 50, seed=0, training=False)
    seen = [inputs[np.argsort(labels)] for inputs, labels in collect(plain.dataset(steps=2))]
    np.testing.assert_array_equal(*seen)


def test_rollout_is_its_batches():
    data = make_data(augment=True)
    singles = collect(Batches(data, 7, seed=5).dataset(steps=12))
    rollouts = collect(Batches(data, 7, seed=5, rollout=3).dataset(steps=4))
    assert rollouts[0][0].shape == (3, 7, 8, 8, 3)
    assert rollouts[0][1].shape == (3, 7)
    flat = [pair for rollout in rollouts for pair in zip(*rollout, strict=True)]
    assert_same(flat, singles)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16])
@pytest.mark.parametrize("channels_first", [False, True])
def test_static_shapes_and_dtypes(dtype, channels_first):
    data = make_data(channels=2)
    batches = Batches(data, 7, seed=0, dtype=dtype, channels_first=channels_first)
    shape = (7, 2, 8, 8) if channels_first else (7, 8, 8, 2)
    inputs, labels = batches.dataset().element_spec
    assert (inputs.shape, inputs.dtype) == (shape, dtype)
    assert (labels.shape, labels.dtype) == ((7,), tf.int32)
    inputs, _ = next(iter(batches.dataset()))
    assert (inputs.shape, inputs.dtype) == (shape, dtype)


def test_channels_first_is_transposed():
    data = make_data(augment=True)
    last, _ = Batches(data, 7, seed=0).batch(0)
    first, _ = Batches(data, 7, seed=0, channels_first=True).batch(0)
    np.testing.assert_array_equal(np.moveaxis(last, 3, 1), first)


def test_each_image_is_standardised_by_itself():
    data = make_data(count=3, size=4)
    data.images[1] = 7  # uniform: the deviation's floor of 1/sqrt(48) keeps it finite
    data.images[2] = 7
    data.images[2, 0, 0, 0] = 8  # its deviation of 0.1430 is under that floor of 0.1443
    inputs, labels = Batches(data, 3, seed=0).batch(0)
    inputs = inputs.numpy()[np.argsort(labels)]
    images = data.images.astype(np.float64)
    mean = images.mean((1, 2, 3), keepdims=True)
    std = np.maximum(images.std((1, 2, 3), keepdims=True), 1 / np.sqrt(48))
    np.testing.assert_allclose(inputs, (images - mean) / std, rtol=1e-4, atol=1e-5)


def test_given_mean_and_std():
    data = make_data(pixel_mean=100.0, pixel_std=50.0)
    inputs, labels = Batches(data, 50, seed=0).batch(0)
    expected = (data.images[labels].astype(np.float64) - 100) / 50
    np.testing.assert_allclose(inputs, expected, rtol=1e-6, atol=1e-6)


def test_images_are_not_in_the_graph():
    data = make_data(count=4000)
    function = tf.function(Batches(data, 7, seed=0).batch)
    graph = function.get_concrete_function(tf.TensorSpec([], tf.int64)).graph.as_graph_def()
    assert graph.ByteSize() < data.images.nbytes / 4


@pytest.mark.parametrize(
    "options, found",
    [
        (dict(batch_size=0), "got 0"),
        (dict(batch_size=51), "from 1 to 50"),
        (dict(rollout=0), "rollout"),
        (dict(seed=2**64), "64 bits"),
        (dict(dtype=tf.int32), "int32"),
    ],
)
def test_bad_options(options, found):
    with pytest.raises(ValueError, match=found):
        Batches(make_data(), **(dict(batch_size=7, seed=0) | options))


@pytest.mark.parametrize("options", [dict(start=-1), dict(steps=-1)])
def test_bad_start_and_steps(options):
    with pytest.raises(ValueError, match="at least 0"):
        Batches(make_data(), 7, seed=0).dataset(**options)


def test_negative_and_large_seeds():
    for seed in (-(2**63), -1, 2**63 - 1):
        order = Batches(make_data(), 50, seed=seed).indices(2**40)
        np.testing.assert_array_equal(np.sort(order), np.arange(50))


@pytest.mark.parametrize("batch_size, sizes", [(20, [20, 20, 10]), (25, [25, 25]), (50, [50])])
def test_test_batches_pass_once_in_order(batch_size, sizes):
    data = make_data(augment=True)
    batches = collect(image_data.test_batches(data, batch_size))
    assert [len(labels) for _, labels in batches] == sizes
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), data.labels)
    inputs = np.concatenate([inputs for inputs, _ in batches])
    expected, labels = Batches(data, 50, seed=0, training=False).batch(0)
    np.testing.assert_allclose(inputs[labels], expected, rtol=1e-6, atol=1e-6)


def test_test_batches_options():
    inputs, _ = next(
        iter(image_data.test_batches(make_data(), 10, tf.float64, channels_first=True))
    )
    assert (inputs.shape, inputs.dtype) == ((10, 3, 8, 8), tf.float64)
    with pytest.raises(ValueError, match="batch size"):
        image_data.test_batches(make_data(), 0)


@pytest.mark.data
def test_cifar10_batches(data_dir):
    data = image_data.load("cifar10", data_dir, part="train")
    batches = Batches(data, 128, seed=1)
    (inputs, labels), (other, _) = batches.dataset(steps=2)
    assert inputs.shape == (128, 32, 32, 3)
    assert not np.array_equal(inputs, other)
    np.testing.assert_array_equal(labels, data.labels[batches.indices(0)])
    np.testing.assert_allclose(tf.reduce_mean(inputs, [1, 2, 3]), np.zeros(128), atol=1e-4)
    np.testing.assert_allclose(
        tf.math.reduce_std(inputs, [1, 2, 3]), np.ones(128), rtol=1e-4, atol=1e-4
    )
