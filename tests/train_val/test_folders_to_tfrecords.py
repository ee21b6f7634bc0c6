"""The converter: what it writes, and that a killed one goes on."""

import os

import numpy as np
import pytest
import tensorflow as tf

from replay import DirectoryLock
from tests.train_val import photographs as made
from tests.train_val.commands import kill_at, run, start
from train_val import folders_to_tfrecords
from train_val.data import DataError, load
from train_val.data.image_folders import FolderImages

SHARDS = {"train_shards": 3, "validation_shards": 2, "progress": False}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_the_layout_is_that_of_tensorflows_models(tmp_path, capsys):
    folders = made.make_folders(tmp_path / "folders")
    made.damage(folders / "train" / "n00000002" / "4.JPEG")
    result = folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS)
    assert (result.written, result.found) == (20, 0)
    assert result.left_out == [str(folders / "train" / "n00000002" / "4.JPEG")]
    assert "n00000002/4.JPEG can't be decoded" in capsys.readouterr().out
    found = {}
    for path in sorted((tmp_path / "out").glob("train-*-of-00003")):
        # TensorFlow's own reader checks the sums of the bytes.
        for record in tf.data.TFRecordDataset(str(path)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            name = features["image/class/synset"].bytes_list.value[0].decode()
            file = features["image/filename"].bytes_list.value[0].decode()
            original = folders / "train" / name / file
            assert features["image/encoded"].bytes_list.value[0] == original.read_bytes()
            assert features["image/class/label"].int64_list.value[0] == int(name[1:])
            found[original] = [
                features[f"image/{key}"].int64_list.value[0]
                for key in ("height", "width", "channels")
            ]
    assert len(found) == 14
    assert found[folders / "train" / "n00000001" / "1.JPEG"] == [37, 50, 1]
    assert (tmp_path / "out" / "labels.txt").read_text().split() == sorted(made.CLASSES)


# Names that readers, shells or encodings treat as special.
NAMES = [
    *(
        "background",
        "car",
        "dog",
        "Dog",
        "train",
        "validation",
        "test",
        "unused",
        "none",
        "0",
        "10",
    ),
    *("9", "n00000000", "1:one", "labels.txt", "train-00000-of-00001", "x.JPEG", "a b", " ", "été"),
    *("\u4e2d\u2028\u6587", "-", "#1", os.fsdecode(b"\xff\xfe")),
]


def test_every_class_folder_is_a_class_whatever_its_name(tmp_path, capsys):
    random = np.random.default_rng(0)
    for label, name in enumerate(sorted(NAMES)):
        for part in ("train", "val") if label % 2 else ("train",):
            (tmp_path / "folders" / part / name).mkdir(parents=True)
            content = made.jpeg(random, label % 4)
            (tmp_path / "folders" / part / name / f"{label}.jpg").write_bytes(content)
    (tmp_path / "folders" / "train" / ".hidden").mkdir()
    out = tmp_path / "out"
    folders_to_tfrecords.convert(tmp_path / "folders", out, **SHARDS)
    for part, labels in (("train", range(len(NAMES))), ("test", range(1, len(NAMES), 2))):
        data = [load("imagenet", way, part=part) for way in (tmp_path / "folders", out)]
        assert [one.num_classes for one in data] == [len(NAMES)] * 2
        for one in data:
            fetched = zip(*one.source.fetch(tf.range(len(one), dtype=tf.int64)), strict=True)
            found = {one.source.parse(*tensors)[0].numpy(): int(one.source.parse(*tensors)[1])
                     for tensors in fetched}  # fmt: skip
            assert sorted(found.values()) == list(labels)
            for content, label in found.items():
                name = sorted(NAMES)[label]
                path = tmp_path / "folders" / "train" / name / f"{label}.jpg"
                assert part == "test" or path.read_bytes() == content
    # The rule for the files of others stands.
    (out / "conversion.json").unlink()
    (out / "labels.txt").write_text("background\ncar\ndog\n")
    assert load("imagenet", out, part="train").num_classes == 2
    (tmp_path / "folders" / "train" / "a\nb").mkdir()
    (tmp_path / "folders" / "train" / "a\nb" / "1.jpg").write_bytes(made.jpeg(random, 0))
    with pytest.raises(DataError, match="names of class folders on one line, found 'a"):
        folders_to_tfrecords.convert(tmp_path / "folders", tmp_path / "new", **SHARDS)


def test_what_is_no_image_stops_nothing(tmp_path, capsys):
    folders = made.make_folders(tmp_path / "folders")
    train = folders / "train"
    (train / "n00000001" / "folder.JPEG").mkdir()
    (train / "n00000001" / "circle.JPEG").symlink_to("circle.JPEG")
    (train / "n00000001" / "dangling.JPEG").symlink_to("nowhere")
    (train / "n00000001" / "back.JPEG").symlink_to("..")
    (train / "n00000001" / "without_suffix").write_bytes(b"x")
    (train / "circle").symlink_to("circle")
    (train / "again").symlink_to("..")
    (train / "here").symlink_to(".")
    (train / "n00000002" / "0.JPEG").write_bytes(b"")
    link = train / "n00000003" / "twice.jpeg"
    link.symlink_to("0.JPEG")
    result = folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS)
    assert (result.written, result.left_out) == (21, [str(train / "n00000002" / "0.JPEG")])
    assert load("imagenet", tmp_path / "out", part="train").num_classes == 3
    out = capsys.readouterr().out
    assert "Left out: 4 in the folders" in out and "are no files" in out
    assert "do not end in .jpeg, .jpg, .png" in out
    # What goes after it was listed is left out as well.
    images = FolderImages(train)
    link.unlink()
    (tmp_path / "one").mkdir()
    piece = np.array([images.paths.index(str(link)), 0])
    path = tmp_path / "one" / "train-00000-of-00001"
    assert folders_to_tfrecords._write_shard(path, images, piece, 0) == [str(link)]
    assert "can't be read (No such file" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_set_of_damaged_images_is_an_error_at_every_try(part, tmp_path):
    folders = made.make_folders(tmp_path / "folders")
    for path in (folders / part).glob("*/*"):
        made.damage(path)
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            run(
                folders_to_tfrecords,
                f"--data_dir={folders}",
                f"--output_dir={tmp_path}/out",
                "--train_shards=3",
                "--validation_shards=2",
            )
        assert "can't be read or decoded: copy the images anew" in end.value.code


def test_a_folder_of_validation_images_that_is_none(tmp_path, capsys):
    folders = made.make_folders(tmp_path / "folders")
    (folders / "val").rename(folders / "validation")
    (folders / "val").symlink_to("val")
    with pytest.raises(DataError, match="validation images in .*val, found something else"):
        folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS)
    (folders / "val").unlink()
    folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS)
    assert "val: the training images alone are converted" in capsys.readouterr().out


def test_a_note_that_is_damaged_and_files_of_others(tmp_path):
    folders = made.make_folders(tmp_path / "folders")
    folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS)
    whole = (tmp_path / "out" / "conversion.json").read_bytes()
    for content in (b"", b"[1]", b"\xff", whole[:-3], b"\0" * 9):
        (tmp_path / "out" / "conversion.json").write_bytes(content)
        with pytest.raises(DataError, match=r"conversion\.json is damaged.*another output_dir"):
            folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labels.txt").write_text("mine")
    (tmp_path / "mine" / "notes.unfinished").write_text("mine")
    with pytest.raises(DataError, match="no .*labels.txt that this conversion has not made"):
        folders_to_tfrecords.convert(folders, tmp_path / "mine", **SHARDS)
    (tmp_path / "mine" / "labels.txt").unlink()
    folders_to_tfrecords.convert(folders, tmp_path / "mine", **SHARDS)
    assert (tmp_path / "mine" / "notes.unfinished").read_text() == "mine"


def test_a_conversion_goes_on_where_it_was(tmp_path):
    folders = made.make_folders(tmp_path / "folders")
    folders_to_tfrecords.convert(folders, tmp_path / "whole", **SHARDS)
    folders_to_tfrecords.convert(folders, tmp_path / "part", **SHARDS)
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "part") == whole
    (tmp_path / "part" / "train-00001-of-00003").unlink()
    (tmp_path / "part" / "train-00001-of-00003.unfinished").write_bytes(b"half")
    result = folders_to_tfrecords.convert(folders, tmp_path / "part", **SHARDS)
    assert (result.written, result.found) == (5, 4)
    assert contents(tmp_path / "part") == whole
    with pytest.raises(DataError, match="an unfinished conversion of the same images"):
        folders_to_tfrecords.convert(folders, tmp_path / "part", **{**SHARDS, "seed": 1})


def test_a_folder_is_one_conversion_s_at_a_time(tmp_path):
    """Two would write into each other's unfinished files."""
    folders = made.make_folders(tmp_path / "folders")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-00000-of-00003.unfinished").write_bytes(b"the other's")
    before = contents(tmp_path / "out")
    other = DirectoryLock(tmp_path / "out", "conversion")
    with pytest.raises(DataError, match="no other conversion writes to, but another conversion"):
        folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS)
    assert contents(tmp_path / "out") == before
    other.release()
    assert folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS).written == 21


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    class Full:
        def __init__(self, path):
            raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")

    monkeypatch.setattr(tf.io, "TFRecordWriter", Full)
    folders = made.make_folders(tmp_path / "folders")
    with pytest.raises(OSError, match="Expected to write .*No space left on device.*make room"):
        folders_to_tfrecords.convert(folders, tmp_path / "out", **SHARDS)


def test_what_makes_no_sense(tmp_path):
    folders = made.make_folders(tmp_path / "folders")
    with pytest.raises(DataError, match="15 images for 1024 files: ask for fewer"):
        folders_to_tfrecords.convert(folders, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train-00000-of-00003").touch()
    with pytest.raises(DataError, match="that this conversion has not made"):
        folders_to_tfrecords.convert(folders, tmp_path / "other", **SHARDS)
    with pytest.raises(SystemExit) as end:
        run(folders_to_tfrecords, f"--data_dir={tmp_path}/none", f"--output_dir={tmp_path}/out")
    assert "a folder of images for each class" in end.value.code


@pytest.mark.slow
def test_a_killed_conversion_goes_on(tmp_path):
    folders = made.make_folders(tmp_path / "folders", train=200)
    flags = ("--train_shards=40", "--validation_shards=2", f"--data_dir={folders}")
    process = start("folders_to_tfrecords", *flags, f"--output_dir={tmp_path / 'killed'}")
    kill_at(process, tmp_path / "killed" / "train-00010-of-00040")
    assert len(list((tmp_path / "killed").glob("train-*"))) < 40
    for name in ("killed", "whole"):
        process = start("folders_to_tfrecords", *flags, f"--output_dir={tmp_path / name}")
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "images written to" in out
    killed, whole = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    assert killed == whole
    assert np.sum([name.startswith("train-") for name in whole]) == 40
