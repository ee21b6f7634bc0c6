"""The converter: what it writes, and that a killed one goes on."""

import numpy as np
import pytest
import tensorflow as tf

from replay import DirectoryLock
from tests.train_val import photographs as made
from tests.train_val.commands import kill_at, run, start
from train_val import folders_to_tfrecords
from train_val.data import DataError

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
