"""ImageNet's three layouts: labels, what is found, and what is wrong with it."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.train_val import photographs as made
from train_val import folders_to_tfrecords
from train_val.data import DataError, StoredBatches, StoredTestBatches, load
from train_val.data.imagenet import load_imagenet
from train_val.data.photographs import MEAN, STD
from train_val.data.tfrecords import TFRecordImages, index_of


@pytest.fixture
def folders(tmp_path):
    return made.make_folders(tmp_path / "folders")


def seen(data):
    """All images, as (label, rounded mean colour), sorted."""
    found = [
        (int(label), *np.round(tf.reduce_mean(image, [0, 1]).numpy(), 4))
        for images, labels in StoredTestBatches(data, 4)
        for image, label in zip(images, labels, strict=True)
    ]
    return sorted(found)


def as_tfds(folders, root):
    """The folders' images as tensorflow-datasets writes them, labels from 0."""
    for part, name in (("train", "train"), ("val", "validation")):
        examples = [
            {
                "image": path.read_bytes(),
                "label": sorted(made.CLASSES).index(path.parent.name),
                "file_name": path.name.encode(),
            }
            for path in sorted((folders / part).glob("*/*"))
        ]
        place = root / "imagenet2012" / "5.1.0"
        for shard in range(2):
            made.write_records(
                place / f"imagenet2012-{name}.tfrecord-{shard:05d}-of-00002", examples[shard::2]
            )
    (place / "label.labels.txt").write_text("\n".join(sorted(made.CLASSES)) + "\n")
    return root


@pytest.mark.parametrize("part", ["train", "test"])
def test_labels_mean_the_same_whichever_way_images_come(part, folders, tmp_path):
    folders_to_tfrecords.convert(
        folders, tmp_path / "records", train_shards=3, validation_shards=2, progress=False
    )
    ways = [folders, tmp_path / "records", as_tfds(folders, tmp_path / "tfds")]
    data = [load("imagenet", way, part=part, image_size=16) for way in ways]
    found = [seen(one) for one in data]
    assert len(found[0]) == len(data[0]) == (15 if part == "train" else 6)
    for one, images in zip(data, found, strict=True):
        assert one.num_classes == 3
        assert one.image_shape == (16, 16, 3)
        np.testing.assert_allclose(images, found[0], rtol=1e-4)
        # The grey level of an image tells its class, by the sorted names.
        for label, *colour in images:
            level = np.mean(np.array(colour) * 57 + 115)
            assert abs(level - (60 * label + 10)) < 12


def test_the_originals_1001_classes(folders):
    assert load_imagenet(folders, "train", num_classes=4).num_classes == 4
    with pytest.raises(DataError, match="Expected num_classes=3, the .*got 1000"):
        load_imagenet(folders, "train", num_classes=1000)
    with pytest.raises(ValueError, match="image_size of at least 1, got 0"):
        load_imagenet(folders, "train", image_size=0)


@pytest.mark.parametrize("name", ["labels.txt", "label.labels.txt"])
def test_names_of_classes_may_have_blanks(name, folders, tmp_path):
    records = tmp_path / "records"
    folders_to_tfrecords.convert(
        folders, records, train_shards=2, validation_shards=1, progress=False
    )
    (records / "labels.txt").unlink()
    (records / name).write_text("great white shark\ntench\n\nAmerican coot\n")
    assert load_imagenet(records, "train").num_classes == 3


def test_the_background_is_a_class_where_labels_count_from_0(folders, tmp_path):
    root = as_tfds(folders, tmp_path / "tfds")
    names = root / "imagenet2012" / "5.1.0" / "label.labels.txt"
    names.write_text("background\ncar\ndog\n")
    assert load_imagenet(root, "train").num_classes == 3


def test_boxes_are_read(tmp_path):
    random = np.random.default_rng(0)
    corners = {"ymin": [0.1, 0.0], "xmin": [0.2, 0.5], "ymax": [0.6, 1.0], "xmax": [0.7, 1.0]}
    boxes = {f"image/object/bbox/{side}": values for side, values in corners.items()}
    examples = [
        {"image/encoded": made.jpeg(random, 0), "image/class/label": 1, **boxes},
        {"image/encoded": made.jpeg(random, 1), "image/class/label": 2},
    ]
    made.write_records(tmp_path / "train-00000-of-00001", examples)
    source = load_imagenet(tmp_path, "train").source
    (records,) = source.fetch(tf.constant([1, 0], tf.int64))
    _, label, none = source.parse(records[0])
    assert (int(label), none.shape) == (1, (1, 0, 4))
    encoded, label, found = source.parse(records[1])
    assert (encoded.numpy(), int(label)) == (examples[0]["image/encoded"], 0)
    np.testing.assert_allclose(found[0], [[0.1, 0.2, 0.6, 0.7], [0, 0.5, 1, 1]], rtol=1e-6)


def test_boxes_beyond_the_image_are_cut_to_it(tmp_path):
    random = np.random.default_rng(0)
    corners = {"ymin": [-0.1, 0.5], "xmin": [0.2, np.nan], "ymax": [1.5, 0.2], "xmax": [0.7, 1.0]}
    boxes = {f"image/object/bbox/{side}": values for side, values in corners.items()}
    example = {"image/encoded": made.jpeg(random, 0), "image/class/label": 1, **boxes}
    made.write_records(tmp_path / "train-00000-of-00001", [example, example])
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    data = load_imagenet(tmp_path, "train", image_size=8)
    (records,) = data.source.fetch(tf.constant([0], tf.int64))
    found = data.source.parse(records[0])[2]
    np.testing.assert_allclose(found[0], [[0, 0.2, 1, 0.7], [0.5, 0, 0.2, 1]], rtol=1e-6)
    # TensorFlow draws crops with them.
    ((inputs, _),) = StoredBatches(data, 2, 1).dataset(steps=1)
    assert np.all(np.isfinite(inputs))


def test_records_are_where_the_index_says(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    files, contents = [], []
    for number, count in enumerate((3, 0, 2)):
        files.append(tmp_path / f"file{number}")
        with tf.io.TFRecordWriter(str(files[-1])) as writer:
            for _ in range(count):
                contents.append(random.bytes(int(random.integers(1, 2000))) + b"\0")
                writer.write(contents[-1])
    numbers, offsets, lengths = index_of(files)
    np.testing.assert_array_equal(numbers, [0, 0, 0, 2, 2])
    whole = [file.read_bytes() for file in files]
    for content, number, offset, length in zip(contents, numbers, offsets, lengths, strict=True):
        assert whole[number][offset : offset + length] == content
    # A large index is kept, and found again until a file changes.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("train_val.data.tfrecords._WORTH_KEEPING", 1)
    first = index_of(files)
    (kept,) = (tmp_path / "cache" / "mlhf").iterdir()
    np.testing.assert_array_equal(index_of(files)[1], first[1])
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(index_of(files)[1], first[1])
    files[0].write_bytes(files[2].read_bytes())
    assert len(index_of(files)[0]) == 4


@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_a_record_file_cut_short_is_named(cut, folders, tmp_path):
    records = tmp_path / "records"
    folders_to_tfrecords.convert(
        folders, records, train_shards=2, validation_shards=1, progress=False
    )
    path = records / "train-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=f"{path} to end with a whole TFRecord, record .*cut short"):
        load_imagenet(records, "train")
    path.unlink()
    with pytest.raises(DataError, match="all files of one set.* 1 missing, number 1 the first"):
        load_imagenet(records, "train")


def test_a_tail_of_zeros_is_no_record(folders, tmp_path):
    """As an interrupted copy leaves it: lengths of 0 would be records without end."""
    records = tmp_path / "records"
    folders_to_tfrecords.convert(
        folders, records, train_shards=1, validation_shards=1, progress=False
    )
    path = records / "train-00000-of-00001"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0" * 160)
    with pytest.raises(DataError, match=f"none at byte {size:,}, where record 15 would begin"):
        load_imagenet(records, "train")


def test_a_flipped_bit_in_a_label_leaves_the_image_out(tmp_path, capsys):
    picture = made.jpeg(np.random.default_rng(0), 0)
    example = {"image/encoded": picture, "image/class/label": 1}
    path = tmp_path / "train-00000-of-00001"
    made.write_records(path, [example] * 12)
    content = bytearray(path.read_bytes())
    # The label is a byte of 1; of the third record it becomes 3.
    _, offsets, lengths = index_of([path])
    label = content.rindex(b"\x01", int(offsets[2]), int(offsets[2] + lengths[2]))
    content[label] ^= 2
    path.write_bytes(content)
    data = load_imagenet(tmp_path, "train", image_size=16)
    labels = np.concatenate([labels for _, labels in StoredTestBatches(data, 4)])
    np.testing.assert_array_equal(labels, np.zeros(11))
    assert f"record 2 of {path} can't be decoded" in capsys.readouterr().out


def test_names_of_classes_are_those_of_the_data_set(folders, tmp_path):
    records = tmp_path / "records"
    folders_to_tfrecords.convert(
        folders, records, train_shards=1, validation_shards=1, progress=False
    )
    names = [f"{n}:{name}" for n, name in enumerate(["background", *sorted(made.CLASSES)])]
    (records / "labels.txt").write_text("\n".join(names))
    assert load_imagenet(records, "train").num_classes == len(made.CLASSES)
    # Of the folder above it are those of something else.
    (records / "labels.txt").unlink()
    (tmp_path / "labels.txt").write_text("a\n" * 2000)
    assert load_imagenet(records, "train").num_classes == 1000


def test_other_records(tmp_path):
    made.write_records(tmp_path / "train-00000-of-00001", [{"image": b"x", "label": 1}])
    with pytest.raises(DataError, match=r"Expected the features \['image/class/label', 'image/enc"):
        load_imagenet(tmp_path, "train")
    for image, label, kind in (
        (b"x", b"cat", "class/label with one value as int64_list, found 1 as bytes_list"),
        (b"x", [1.0], "class/label with one value as int64_list, found 1 as float_list"),
        (3, 1, "encoded with one value as bytes_list, found 1 as int64_list"),
    ):
        example = {"image/encoded": image, "image/class/label": label}
        made.write_records(tmp_path / "train-00000-of-00001", [example])
        with pytest.raises(DataError, match=f"in {tmp_path}.*feature image/{kind} in record 0"):
            load_imagenet(tmp_path, "train")
    (tmp_path / "train-00000-of-00001").write_bytes(b"")
    with pytest.raises(DataError, match="1 TFRecord files without a record"):
        load_imagenet(tmp_path, "train")
    with tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")) as writer:
        writer.write(b"\xff\xff\xff")
    with pytest.raises(DataError, match="record 0 of .* to be a tf.train.Example"):
        load_imagenet(tmp_path, "train")
    with pytest.raises(DataError, match="Expected to read .*none, could not"):
        TFRecordImages([tmp_path / "none"], encoded="image", label="label", first_label=0)


def test_folders_that_are_not_there_or_empty(folders, tmp_path):
    with pytest.raises(DataError, match="Expected a folder with ImageNet in .*none, found none"):
        load_imagenet(tmp_path / "none", "train")
    with pytest.raises(DataError, match="found none of its layouts: folders train/<wnid>"):
        load_imagenet(tmp_path, "train")
    (tmp_path / "new" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train/<wnid>/\*.JPEG\), found none"):
        load_imagenet(tmp_path / "new", "train")
    (tmp_path / "new" / "train" / "n1").mkdir()
    (tmp_path / "new" / "train" / "n1" / "notes.txt").touch()
    with pytest.raises(DataError, match="Expected images .* in .*n1, found none"):
        load_imagenet(tmp_path / "new", "train")
    (folders / "val" / "n00000009").mkdir()
    with pytest.raises(DataError, match="1 others, n00000009 among them"):
        load_imagenet(folders, "test")
    (folders / "val").rename(folders / "validation")
    with pytest.raises(DataError, match="Expected the validation images in .*val, found no such"):
        load_imagenet(folders, "test")


def test_what_tensorflow_datasets_has_not_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="Expected imagenet2012 of tensorflow-datasets.*data_dir"):
        load_imagenet(None, "train")


@pytest.mark.data
def test_real_images(data_dir):
    if not (data_dir / "imagenet-mini").is_dir():
        pytest.skip(f"no imagenet-mini in {data_dir}")
    train, test = (
        load_imagenet(data_dir / "imagenet-mini", part, image_size=64) for part in ("train", "test")
    )
    assert (len(train), train.num_classes, len(test)) == (3000, 100, 500)
    labels = np.concatenate([labels for _, labels in StoredTestBatches(test, 100)])
    np.testing.assert_array_equal(np.bincount(labels), np.full(100, 5))


@pytest.mark.data
def test_real_photographs_are_what_another_library_sees(data_dir, tmp_path):
    photographs = data_dir / "imagenet-photos"
    if not photographs.is_dir():
        pytest.skip(f"no imagenet-photos in {data_dir}")
    (tmp_path / "folders").mkdir()
    for part in ("train", "val"):
        (tmp_path / "folders" / part).symlink_to(photographs.resolve(), target_is_directory=True)
    data = load_imagenet(tmp_path / "folders", "test", image_size=64)
    folders_to_tfrecords.convert(
        tmp_path / "folders",
        tmp_path / "records",
        train_shards=2,
        validation_shards=2,
        progress=False,
    )
    again = load_imagenet(tmp_path / "records", "test", image_size=64)
    assert seen(data) == seen(again)
    images, labels = next(iter(StoredTestBatches(data, len(data))))
    np.testing.assert_array_equal(labels, np.arange(149))
    pixels = images.numpy() * np.array(STD) + np.array(MEAN)
    greyscale = 0
    for square, path in zip(pixels, data.source.paths, strict=True):
        with Image.open(path) as photograph:
            side = round(0.875 * min(photograph.size))
            left, top = ((extent - side) // 2 for extent in photograph.size)
            expected = photograph.convert("RGB").resize(
                (64, 64), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
            )
            # The decoder scales down what is much larger; mirrored, they differ by 11 and more.
            assert np.abs(square - np.asarray(expected, float)).mean() < 4, path
            if photograph.mode == "L":
                greyscale += 1
                np.testing.assert_allclose(square, square[..., :1] * [1, 1, 1], atol=1e-3)
    assert greyscale >= 5
