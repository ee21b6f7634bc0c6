import itertools

import numpy as np
import pytest
import tensorflow as tf

from train_val.data import Batches, ImageData
from train_val.data.augmentation import crop_and_flip, draw_shifts_and_flips


def crop_and_flip_in_numpy(image, shift, flip):
    height, width, _ = image.shape
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crop = padded[shift[0] : shift[0] + height, shift[1] : shift[1] + width]
    return crop[:, ::-1] if flip else crop


def standardize_in_numpy(image):
    image = image.astype(np.float64)
    return (image - image.mean()) / max(image.std(), 1 / np.sqrt(image.size))


@pytest.mark.parametrize("shape", [(32, 32, 3), (6, 11, 2), (3, 3, 1)])
def test_every_shift_and_flip_against_numpy(shape):
    choices = list(itertools.product(range(9), range(9), [False, True]))
    shifts = np.array([choice[:2] for choice in choices], np.int32)
    flips = np.array([choice[2] for choice in choices])
    images = np.random.default_rng(0).integers(1, 256, (len(choices), *shape), np.uint8)
    moved = crop_and_flip(tf.constant(images), tf.constant(shifts), tf.constant(flips))
    assert moved.dtype == tf.uint8
    for image, result, shift, flip in zip(images, moved.numpy(), shifts, flips, strict=True):
        np.testing.assert_array_equal(result, crop_and_flip_in_numpy(image, shift, flip))


def test_a_batch_against_numpy():
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    data = ImageData(images, np.arange(40, dtype=np.int32), 40, "made up", augment=True)
    inputs, labels = Batches(data, 16, seed=9).batch(4)
    shifts, flips = draw_shifts_and_flips(16, tf.constant([9, 4], tf.int64))
    expected = [
        standardize_in_numpy(crop_and_flip_in_numpy(images[label], shift, flip))
        for label, shift, flip in zip(labels, shifts.numpy(), flips.numpy(), strict=True)
    ]
    np.testing.assert_allclose(inputs, expected, rtol=1e-4, atol=1e-5)


def test_draws_are_uniform():
    shifts, flips = draw_shifts_and_flips(81_000, tf.constant([0, 0], tf.int64))
    corners = np.bincount(shifts.numpy() @ [9, 1], minlength=81)
    assert len(corners) == 81
    # 1,000 expected in each; five deviations of a binomial count are 158.
    assert abs(corners - 1000).max() < 158
    assert abs(flips.numpy().mean() - 0.5) < 5 * 0.5 / 81_000**0.5
    assert abs(np.corrcoef(flips, shifts[:, 1])[0, 1]) < 5 / 81_000**0.5


def test_draws_are_a_function_of_the_seed():
    seeds = [[0, 0], [0, 1], [1, 0]]
    draws = [draw_shifts_and_flips(50, tf.constant(seed, tf.int64))[0] for seed in seeds]
    again = [draw_shifts_and_flips(50, tf.constant(seed, tf.int64))[0] for seed in seeds]
    np.testing.assert_array_equal(draws, again)
    for first, second in itertools.combinations(draws, 2):
        assert not np.array_equal(first, second)


def test_draws_are_kept_across_versions():
    shifts, flips = draw_shifts_and_flips(4, tf.constant([0, 0], tf.int64))
    np.testing.assert_array_equal(shifts, [[4, 4], [6, 1], [7, 1], [8, 0]])
    np.testing.assert_array_equal(flips, [False, True, False, False])
