"""Batches of images on disk: resuming, crops, colours, and damaged images."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.train_val import photographs as made
from train_val.data import DataError, StoredBatches, StoredImages, StoredTestBatches, photographs
from train_val.data.imagenet import load_imagenet
from train_val.problems import image_problems

SIZE = 16


@pytest.fixture
def folders(tmp_path):
    return made.make_folders(tmp_path / "folders")


def collect(batches):
    return [(inputs.numpy(), labels.numpy()) for inputs, labels in batches]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_batches_are_a_function_of_seed_and_number(folders):
    data = load_imagenet(folders, "train", image_size=SIZE)
    whole = collect(StoredBatches(data, 4, 1).dataset(steps=8))
    assert whole[0][0].shape == (4, SIZE, SIZE, 3)
    assert whole[0][1].dtype == np.int32
    assert_same(collect(StoredBatches(data, 4, 1).dataset(5, steps=3)), whole[5:])
    other = collect(StoredBatches(data, 4, 2).dataset(steps=8))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(whole, other, strict=True))
    # Every image once an epoch: 5 of each class in 15.
    labels = np.concatenate([labels for _, labels in whole])
    np.testing.assert_array_equal(np.bincount(labels[:15]), [5, 5, 5])
    np.testing.assert_array_equal(np.bincount(labels[15:30]), [5, 5, 5])


def test_channels_first_and_dtypes(folders):
    data = load_imagenet(folders, "train", image_size=SIZE)
    ((last, _),) = collect(StoredBatches(data, 4, 1).dataset(steps=1))
    ((first, _),) = collect(StoredBatches(data, 4, 1, tf.float64, True).dataset(steps=1))
    np.testing.assert_allclose(np.moveaxis(first, 1, 3), last, rtol=1e-6)
    assert first.dtype == np.float64


def test_a_damaged_image_is_skipped_named_and_counted(folders, capsys):
    data = load_imagenet(folders, "train", image_size=SIZE)
    bad = folders / "train" / "n00000002" / "4.JPEG"
    made.damage(bad)
    number = data.source.paths.index(str(bad))
    batches = StoredBatches(data, 4, 1)
    whole = collect(batches.dataset(steps=8))
    assert batches.left_out.numbers == [number]
    printed = capsys.readouterr().out
    assert printed.count(f"Left out: {bad} can't be decoded (1 left out so far).") == 1
    # Wherever it begins, and whether or not the image is known by then, batch k is the same.
    assert_same(collect(StoredBatches(data, 4, 1).dataset(2, steps=6)), whole[2:])
    assert_same(collect(batches.dataset(steps=8)), whole)
    # The next image stands in its place; the rest is as it was.
    made_up = StoredBatches(data, 4, 1)
    labels = np.concatenate([labels for _, labels in whole]).reshape(-1, 4)
    for k in range(8):
        indices = made_up.indices(k).numpy()
        indices[indices == number] = (number + 1) % 15
        np.testing.assert_array_equal(labels[k], data.source.labels[indices])
    tested = StoredTestBatches(data, 4)
    assert sum(len(labels) for _, labels in tested) == 14
    assert len(tested.left_out) == 1


def test_of_a_file_cut_near_its_end_the_crops_above_the_cut_serve(folders, capsys):
    path = folders / "train" / "n00000002" / "0.JPEG"
    random = np.random.default_rng(3)
    path.write_bytes(made.jpeg(random, 1, height=300, width=60))
    data = load_imagenet(folders, "train", image_size=SIZE)
    number = data.source.paths.index(str(path))
    sound = collect(StoredBatches(data, 4, 1).dataset(steps=40))
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 10])
    batches = StoredBatches(data, 4, 1)
    whole = collect(batches.dataset(steps=40))
    assert batches.left_out.numbers == [number] and batches.left_out.cut_short == {number}
    assert capsys.readouterr().out.count("Left out: ") == 1
    shown = [k for k in range(40) if number in batches.indices(k).numpy()]
    kept = [k for k in shown if np.array_equal(sound[k][0], whole[k][0])]
    assert 0 < len(kept) < len(shown)
    assert_same([sound[k] for k in range(40) if k not in shown],
                [whole[k] for k in range(40) if k not in shown])  # fmt: skip
    # The labels of the others are those of the next image.
    for k in set(shown) - set(kept):
        indices = batches.indices(k).numpy()
        indices[indices == number] = number + 1
        np.testing.assert_array_equal(whole[k][1], data.source.labels[indices])
    # Wherever it begins, and whether or not the file is known by then.
    for start in (shown[1], 17):
        assert_same(collect(StoredBatches(data, 4, 1).dataset(start, steps=40 - start)),
                    whole[start:])  # fmt: skip
    assert_same(collect(batches.dataset(steps=40)), whole)


def test_a_mixed_order_is_drawn_once_and_of_the_same_images(folders):
    data = load_imagenet(folders, "train", image_size=SIZE)

    def labels(**settings):
        batches = StoredTestBatches(data, 4, **settings)
        return np.concatenate([labels for _, labels in batches])

    assert list(labels(limit=9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    mixed = labels(limit=9, mixed=True)
    assert sorted(mixed) == [0, 0, 0, 1, 1, 1, 2, 2, 2] and list(mixed) != sorted(mixed)
    np.testing.assert_array_equal(mixed, labels(limit=9, mixed=True))


def test_a_damaged_image_is_named_once_for_all_measurements(folders, capsys):
    made.damage(folders / "train" / "n00000002" / "4.JPEG")
    layer = keras.layers.BatchNormalization()
    problem = image_problems.of_network(
        lambda shape, classes, seed=0: keras.Sequential(
            [keras.Input(shape), layer, keras.layers.Flatten(), keras.layers.Dense(classes)]
        ),
        "normalised", data="imagenet", data_dir=str(folders), image_size=8, batch_size=2,
    )  # fmt: skip
    parameters = problem.task.initialize(0)
    first, second = (problem.population_state(parameters) for _ in range(2))
    assert capsys.readouterr().out.count("Left out: ") == 1
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("part", ["train", "val"])
def test_nothing_but_damaged_images_is_an_error(part, folders):
    """Fewer than what is borne in a larger data set."""
    data = load_imagenet(folders, part, image_size=SIZE)
    for path in data.source.paths:
        with open(path, "wb") as file:
            file.write(b"no image")
    data = StoredImages(Few(data.source, 5), data.num_classes, SIZE, "five images")
    with pytest.raises(DataError, match="found 5 that can't be decoded"):
        collect(
            StoredBatches(data, 5, 1).dataset(steps=1)
            if part == "train"
            else StoredTestBatches(data, 5)
        )


class Few:
    """The first images of a source."""

    def __init__(self, source, count):
        self._source, self._count = source, count

    def __len__(self):
        return self._count

    def __getattr__(self, name):
        return getattr(self._source, name)


def test_too_many_damaged_images_are_an_error(folders):
    data = load_imagenet(folders, "train", image_size=SIZE)
    for path in data.source.paths[:11]:
        with open(path, "wb") as file:
            file.write(b"no image")
    with pytest.raises(DataError, match="found 11 that can't be decoded: copy the data set anew"):
        collect(StoredBatches(data, 15, 1).dataset(steps=1))


def test_a_label_out_of_range_names_the_record(tmp_path):
    random = np.random.default_rng(0)
    examples = [
        {"image/encoded": made.jpeg(random, 0), "image/class/label": label} for label in (1, 2, 9)
    ]
    made.write_records(tmp_path / "train-00000-of-00001", examples)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    data = load_imagenet(tmp_path, "train", image_size=SIZE)
    with pytest.raises(DataError, match="of 3 classes .*found 8 .*record 2 of .*right number"):
        collect(StoredTestBatches(data, 3))


def test_a_file_that_is_gone(folders):
    data = load_imagenet(folders, "train", image_size=SIZE)
    path = folders / "train" / "n00000001" / "0.JPEG"
    path.unlink()
    with pytest.raises(DataError, match=f"Expected to read {path}, could not"):
        collect(StoredBatches(data, 15, 1).dataset(steps=1))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_colours_and_the_central_crop(mode, form):
    if (mode, form) == ("CMYK", "PNG"):
        pytest.skip("there are no CMYK PNG files")
    # A smooth picture, so that scaling while decoding and after it agree.
    y, x = np.mgrid[0:1:160j, 0:1:240j]
    pixels = np.stack([200 * x, 200 * y, 200 * (1 - x)], -1).astype(np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, form, **({"quality": 95} if form == "JPEG" else {}))
    square = photographs.central_square(tf.constant(buffer.getvalue()), SIZE)
    expected = picture.convert("RGB").crop((50, 10, 190, 150)).resize((SIZE, SIZE), Image.BOX)
    np.testing.assert_allclose(square, np.asarray(expected, float), atol=3)


def test_random_crops_keep_to_their_bounds_and_boxes():
    y, x = np.mgrid[0:100, 0:100]
    # The position of a pixel is its colour: what a crop shows says where it was.
    pixels = np.stack([2 * x, 2 * y, np.zeros_like(x)], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    encoded = tf.constant(buffer.getvalue())

    @tf.function
    def crop(seed, boxes):
        return photographs.random_square(encoded, boxes, seed, 8)

    def windows(boxes):
        for number in range(40):
            square = crop(tf.constant([3, number], tf.int64), boxes).numpy()
            right, down = square[0, -1, 0] - square[0, 0, 0], square[-1, 0, 1] - square[0, 0, 1]
            # From the middle of the first of 8 pixels to that of the last.
            yield square[..., :2] / 2, right / 2 * 8 / 7, down / 2 * 8 / 7

    shapes = [(width, height) for _, width, height in windows(tf.zeros([1, 0, 4]))]
    areas = np.array([width * height for width, height in shapes]) / 1e4
    aspects = np.array([width / height for width, height in shapes])
    assert areas.min() > 0.04 and areas.max() < 1.01 and areas.std() > 0.15
    assert aspects.min() > 0.68 and aspects.max() < 1.5 and aspects.std() > 0.1
    corner = tf.constant([[[0.8, 0.8, 1.0, 1.0]]])
    for places, _, _ in windows(corner):
        assert places.max() > 80  # a tenth of the box, which begins there, is within


@pytest.mark.parametrize("scaled", [True, False])
def test_a_crop_of_a_jpeg_is_that_of_the_whole_picture(scaled):
    y, x = np.mgrid[0:200, 0:240]
    pixels = np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8)
    encoded = []
    for form, settings in (("JPEG", {"quality": 100, "subsampling": 0}), ("PNG", {})):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form, **settings)
        encoded.append(tf.constant(buffer.getvalue()))

    @tf.function
    def crop(content, seed):
        boxes = tf.zeros([1, 0, 4])
        return photographs.random_square(content, boxes, seed, 8, scaled=scaled)

    extents = []
    for number in range(40):
        seed = tf.constant([5, number], tf.int64)
        got, whole = (crop(content, seed).numpy() for content in encoded)
        # A pixel's colour is its place: half of a pixel of the square is what edges may move by.
        step = np.array([whole[0, -1, 0] - whole[0, 0, 0], whole[-1, 0, 1] - whole[0, 0, 1]]) / 7
        extents.append(8 * step.max())
        moved = step.max() / 2 if scaled else 0
        error = got[..., :2] - whole[..., :2]
        # A fast decoder's own errors are of both signs.
        assert np.abs(error.mean((0, 1))).max() < moved + 2 and np.abs(error).max() < moved + 8
    assert min(extents) < 80 and max(extents) > 150  # several scales of the decoder


def test_training_mirrors_half_of_the_images_left_to_right(tmp_path):
    folder = tmp_path / "train" / "n00000001"
    folder.mkdir(parents=True)
    # Bright on the right and at the bottom.
    y, x = np.mgrid[0:40, 0:40]
    for number in range(4):
        pixels = np.stack([4 * x + 2 * y] * 3, -1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.JPEG", quality=95)
    data = load_imagenet(tmp_path, "train", image_size=SIZE)
    images = np.concatenate([x for x, _ in collect(StoredBatches(data, 4, 1).dataset(steps=40))])
    rows, columns = images[..., 0].mean(2), images[..., 0].mean(1)
    assert np.all(rows[:, -1] > rows[:, 0])
    mirrored = columns[:, -1] < columns[:, 0]
    assert 0.35 < mirrored.mean() < 0.65
    # The two kinds show the same otherwise.
    slopes = np.abs(columns[:, -1] - columns[:, 0])
    assert abs(slopes[mirrored].mean() / slopes[~mirrored].mean() - 1) < 0.3


def test_colours_are_standardized_one_by_one():
    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    # ImageNet's, as the original of the networks has them.
    mean, deviation = [123.68, 116.779, 103.939], [58.393, 57.12, 57.375]
    np.testing.assert_allclose(
        photographs.standardize(tf.constant(images)), (images - mean) / deviation, atol=1e-5
    )


def test_bad_arguments(folders):
    data = load_imagenet(folders, "train", image_size=SIZE)
    with pytest.raises(ValueError, match="from 1 to 15, .*got 16"):
        StoredBatches(data, 16, 0)
    with pytest.raises(ValueError, match="fits in 64 bits"):
        StoredBatches(data, 4, 2**64)
    with pytest.raises(ValueError, match="floating dtype .* got int32"):
        StoredBatches(data, 4, 0, tf.int32)
    with pytest.raises(ValueError, match="got start=-1"):
        next(StoredBatches(data, 4, 0).dataset(-1))
    with pytest.raises(ValueError, match="batch size from 1"):
        StoredTestBatches(data, 0)
