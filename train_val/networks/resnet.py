"""ResNet v2 (He et al. 2016, arXiv 1603.05027), as TensorFlow's official models had it in 2018.

Normalisation and ReLU come before each convolution. The first block of a stage changes channels
and size; its shortcut is a 1 x 1 convolution of the normalised inputs. In the other blocks the
shortcut is the identity. Convolutions have no bias; a convolution with strides pads explicitly, the
same for images of every size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from train_val.networks.normalization import ExactBatchNormalization

# Size -> whether blocks are bottlenecks, and their number in each of the four stages.
IMAGENET_SIZES = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


def cifar_resnet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    resnet_size: int = 32,
    width: int = 16,
    seed: int = 0,
    data_format: str = "channels_last",
    dtype: str = "float32",
) -> keras.Model:
    """Returns a ResNet v2 for small images: three stages of 16, 32 and 64 channels.

    Args:
      shape: The shape of an image, in the given data format.
      classes: The number of outputs, logits.
      resnet_size: The depth, 6n + 2 for n blocks of two convolutions per stage: 8, 14, 20, 32 ...
      width: The channels of the first stage; the others have twice and four times as many.
      seed: The seed of the initial weights.
      data_format: `"channels_last"` or `"channels_first"`.
      dtype: The dtype of parameters and computation.

    Returns:
      A built model; with size 20, 10 classes and 32 x 32 x 3 images 272,538 parameters are trained.

    Raises:
      ValueError: If the size is not 6n + 2 or the data format is not known.
    """
    if resnet_size < 8 or resnet_size % 6 != 2:
        raise ValueError(
            "Expected resnet_size of 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...) for a ResNet on "
            f"small images, got {resnet_size}; {sorted(IMAGENET_SIZES)} are for ImageNet."
        )
    builder = _Builder(seed, data_format, dtype)
    inputs = keras.Input(shape, dtype=dtype)
    x = builder.convolution(inputs, width, 3, 1, "initial_conv")
    for stage in range(3):
        strides = 1 if stage == 0 else 2
        x = builder.stage(
            x, stage + 1, width * 2**stage, resnet_size // 6, strides, bottleneck=False
        )
    return keras.Model(inputs, builder.head(x, classes), name=f"resnet{resnet_size}")


def imagenet_resnet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    resnet_size: int = 18,
    seed: int = 0,
    data_format: str = "channels_last",
    dtype: str = "float32",
) -> keras.Model:
    """Returns a ResNet v2 for photographs: four stages after a strided convolution and pooling.

    Args:
      shape: The shape of an image, in the given data format.
      classes: The number of outputs, logits.
      resnet_size: The depth: 18 and 34 have blocks of two convolutions, 50, 101 and 152
        bottlenecks of three.
      seed: The seed of the initial weights.
      data_format: `"channels_last"` or `"channels_first"`.
      dtype: The dtype of parameters and computation.

    Returns:
      A built model.

    Raises:
      ValueError: If the size or the data format is not known.
    """
    if resnet_size not in IMAGENET_SIZES:
        raise ValueError(
            f"Expected resnet_size to be one of {sorted(IMAGENET_SIZES)} for ImageNet, got "
            f"{resnet_size}."
        )
    bottleneck, numbers = IMAGENET_SIZES[resnet_size]
    builder = _Builder(seed, data_format, dtype)
    inputs = keras.Input(shape, dtype=dtype)
    x = builder.convolution(inputs, 64, 7, 2, "initial_conv")
    x = keras.layers.MaxPooling2D(3, 2, "same", data_format, name="initial_pool", dtype=dtype)(x)
    for stage, blocks in enumerate(numbers):
        strides = 1 if stage == 0 else 2
        x = builder.stage(x, stage + 1, 64 * 2**stage, blocks, strides, bottleneck)
    return keras.Model(inputs, builder.head(x, classes), name=f"imagenet_resnet{resnet_size}")


@dataclasses.dataclass
class _Builder:
    """Adds layers, each with its own name and seed."""

    seed: int
    data_format: str
    dtype: str

    def __post_init__(self) -> None:
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                "Expected data_format to be channels_last or channels_first, got "
                f"{self.data_format!r}."
            )
        self._kernels = 0

    def convolution(self, x: Any, filters: int, size: int, strides: int, name: str) -> Any:
        layers = keras.layers
        if strides > 1:
            # With strides, the padding of "same" would depend on the image's size.
            before = (size - 1) // 2
            pads = (before, size - 1 - before)
            x = layers.ZeroPadding2D(
                (pads, pads), self.data_format, name=f"{name}_pad", dtype=self.dtype
            )(x)
        return layers.Conv2D(
            filters,
            size,
            strides,
            "same" if strides == 1 else "valid",
            self.data_format,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(seed=self._next_seed()),
            name=name,
            dtype=self.dtype,
        )(x)

    def normalize(self, x: Any, name: str) -> Any:
        axis = -1 if self.data_format == "channels_last" else 1
        x = ExactBatchNormalization(axis, name=f"{name}norm", dtype=self.dtype)(x)
        return keras.layers.ReLU(name=f"{name}relu", dtype=self.dtype)(x)

    def stage(
        self, x: Any, number: int, width: int, blocks: int, strides: int, bottleneck: bool
    ) -> Any:
        for block in range(blocks):
            name = f"stage{number}_block{block + 1}_"
            x = self.block(x, width, strides if block == 0 else 1, bottleneck, block == 0, name)
        return x

    def block(
        self, x: Any, width: int, strides: int, bottleneck: bool, first: bool, name: str
    ) -> Any:
        shortcut = x
        x = self.normalize(x, f"{name}1_")
        widths = [width, width, 4 * width] if bottleneck else [width, width]
        if first:
            shortcut = self.convolution(x, widths[-1], 1, strides, f"{name}shortcut_conv")
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        striding = 1 if bottleneck else 0
        for number, (filters, size) in enumerate(zip(widths, sizes, strict=True)):
            if number:
                x = self.normalize(x, f"{name}{number + 1}_")
            step = strides if number == striding else 1
            x = self.convolution(x, filters, size, step, f"{name}{number + 1}_conv")
        return keras.layers.Add(name=f"{name}add", dtype=self.dtype)([x, shortcut])

    def head(self, x: Any, classes: int) -> Any:
        x = self.normalize(x, "final_")
        x = keras.layers.GlobalAveragePooling2D(
            self.data_format, name="final_pool", dtype=self.dtype
        )(x)
        return keras.layers.Dense(
            classes,
            kernel_initializer=keras.initializers.GlorotUniform(seed=self._next_seed()),
            name="final_dense",
            dtype=self.dtype,
        )(x)

    def _next_seed(self) -> int:
        self._kernels += 1
        return self.seed * 1000 + self._kernels
