import numpy as np

from train_val import data as image_data


def test_digits_parts_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    parts = [image_data.load("digits", part=part) for part in image_data.PARTS]
    assert [len(part) for part in parts] == [750, 750, 297]
    images = np.concatenate([part.images for part in parts])[..., 0]
    labels = np.concatenate([part.labels for part in parts])
    assert images.max() == 16
    np.testing.assert_allclose(images.mean(), parts[0].pixel_mean, rtol=1e-3)
    np.testing.assert_allclose(images.std(), parts[0].pixel_std, rtol=1e-3)
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(images, bunch.images[order])
    np.testing.assert_array_equal(labels, bunch.target[order])


def test_digits_are_the_same_at_every_call():
    first, second = (image_data.load("digits", part="train") for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    # A figure that is published rests on this order.
    np.testing.assert_array_equal(first.labels[:10], [4, 5, 3, 8, 0, 9, 0, 3, 2, 0])
