"""Three tasks that no controller was meta-trained on, and on which nothing was developed.

    DATA=../shared/data python train_val/compare_optimizers.py \
        --task_file=benchmarks/unseen_tasks.py --task=photographs:batch_size=64 ...

They were named before anything was run on them: photographs by a convnet with layer normalization
and GELU, Python's own source by an LSTM, and a denoising autoencoder of patches of photographs.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import keras
import numpy as np

from train_val import task_families

_CHARACTERS = 100
_MODULES = ("argparse", "ast", "inspect", "subprocess", "tarfile", "turtle", "typing", "zipfile")


@functools.cache
def _photographs() -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of 100 classes averaged to 32 x 32 pixels, standardised, and labels."""
    folder = Path(os.environ.get("DATA", "../shared/data")) / "imagenet-mini" / "train"
    images, labels = [], []
    for label, place in enumerate(sorted(folder.iterdir())):
        for file in sorted(place.iterdir()):
            image = keras.utils.img_to_array(keras.utils.load_img(file))
            images.append(image.reshape(32, 2, 32, 2, 3).mean((1, 3)))
            labels.append(label)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = np.array(images, np.float32)[order]
    return (pixels - 120) / 70, np.array(labels, np.int32)[order]


@task_families.task
def photographs(width: int = 32) -> task_families.ArrayTask:
    """Returns 100 classes of photographs for a convnet with layer normalization."""
    images, labels = _photographs()

    def build(seed: int) -> keras.Model:
        layers = keras.layers
        seeds = iter(range(100 * seed, 100 * seed + 100))

        def start() -> keras.initializers.Initializer:
            return keras.initializers.HeNormal(seed=next(seeds))

        inputs = keras.Input((32, 32, 3))
        x = inputs
        for units, strides in ((width, 2), (width, 1), (2 * width, 2), (2 * width, 1)):
            x = layers.Conv2D(units, 3, strides, "same", kernel_initializer=start())(x)
            x = layers.Activation("gelu")(layers.LayerNormalization()(x))
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(100, kernel_initializer=start())(x))

    return task_families.ArrayTask(
        (images[:2700], labels[:2700]),
        (images[2700:], labels[2700:]),
        "softmax_cross_entropy",
        build,
    )


@task_families.task
def source_code(width: int = 96) -> task_families.ArrayTask:
    """Returns characters of Python's own modules for an LSTM that predicts the next."""
    library = Path(os.__file__).parent
    text = "".join((library / f"{name}.py").read_text("utf-8") for name in _MODULES)
    characters = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
    codes = np.minimum(np.unique(characters, return_inverse=True)[1], _CHARACTERS - 1)
    starts = np.random.default_rng(0).integers(0, len(codes) - 41, 6000)
    pieces = codes.astype(np.int32)[starts[:, None] + np.arange(41)]

    def build(seed: int) -> keras.Model:
        layers, initial = keras.layers, keras.initializers
        return keras.Sequential(
            [
                keras.Input((40,)),
                layers.Embedding(
                    _CHARACTERS, width, embeddings_initializer=initial.RandomNormal(0, 1, seed)
                ),
                layers.LSTM(
                    width,
                    return_sequences=True,
                    kernel_initializer=initial.GlorotUniform(seed),
                    recurrent_initializer=initial.Orthogonal(seed=seed + 1),
                ),
                layers.Dense(_CHARACTERS, kernel_initializer=initial.GlorotUniform(seed + 2)),
            ]
        )

    train, test = pieces[:5000], pieces[5000:]
    return task_families.ArrayTask(
        (train[:, :-1], train[:, 1:]), (test[:, :-1], test[:, 1:]), "softmax_cross_entropy", build
    )


@task_families.task
def denoising(width: int = 256) -> task_families.ArrayTask:
    """Returns noisy patches of 8 x 8 pixels for an autoencoder through 48 units."""
    images, _ = _photographs()
    random = np.random.default_rng(1)
    rows, columns = random.integers(0, 25, (2, 12_000))
    which = random.integers(0, len(images), 12_000)
    patches = np.stack(
        [
            images[i, r : r + 8, c : c + 8].ravel()
            for i, r, c in zip(which, rows, columns, strict=True)
        ]
    )
    noisy = patches + 0.3 * random.normal(size=patches.shape).astype(np.float32)

    def build(seed: int) -> keras.Model:
        initial = keras.initializers.GlorotUniform
        return keras.Sequential(
            [
                keras.Input((192,)),
                keras.layers.Dense(width, "tanh", kernel_initializer=initial(4 * seed)),
                keras.layers.Dense(48, None, kernel_initializer=initial(4 * seed + 1)),
                keras.layers.Dense(width, "tanh", kernel_initializer=initial(4 * seed + 2)),
                keras.layers.Dense(192, None, kernel_initializer=initial(4 * seed + 3)),
            ]
        )

    return task_families.ArrayTask(
        (noisy[:10_000], patches[:10_000]),
        (noisy[10_000:], patches[10_000:]),
        "mean_squared_error",
        build,
    )
