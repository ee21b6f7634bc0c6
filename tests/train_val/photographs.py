"""Small data sets laid out like ImageNet, made up."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

CLASSES = ("n00000003", "n00000001", "n00000002")


def jpeg(random, label, mode="RGB", height=40, width=50, form="JPEG"):
    """An image file of noise around a grey level that tells its class."""
    pixels = (60 * label + 20 * random.random((height, width, 3))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


def make_folders(root, train=5, val=2):
    """Writes train/ and val/ with so many images a class, and returns the folder."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            label = sorted(CLASSES).index(name)
            for number in range(count):
                mode = ("RGB", "L", "CMYK")[number % 3]
                form = "PNG" if number == 3 else "JPEG"
                content = jpeg(random, label, mode, 30 + 7 * number, form=form)
                (folder / f"{number}.JPEG").write_bytes(content)
    return root


def damage(path):
    """Cuts an image file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_records(path, examples):
    """Writes a TFRecord file of dictionaries of bytes, ints and lists of floats."""

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            features = {name: feature(value) for name, value in example.items()}
            whole = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(whole.SerializeToString())
