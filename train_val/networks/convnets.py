"""The networks of the experiments, as Keras models."""

from __future__ import annotations

from collections.abc import Sequence

import keras


def _normal(stddev: float, seed: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)


def convnet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    seed: int = 0,
    data_format: str = "channels_last",
    dtype: str = "float32",
) -> keras.Model:
    """Returns the convnet of the paper: 1,756,426 parameters on 32 x 32 x 3 images, 10 classes.

    Two 5 x 5 convolutions of 64 channels, each with a 2 x 2 maximum pooling, then dense layers of
    384, 192 and the classes; ReLU.

    Args:
      shape: The shape of an image, in the given data format.
      classes: The number of outputs, logits.
      seed: The seed of the initial weights.
      data_format: `"channels_last"` or `"channels_first"`.
      dtype: The dtype of parameters and computation.

    Returns:
      A built model.
    """
    layers = keras.layers
    model = [keras.Input(shape)]
    for number, stddev in enumerate((0.05, 0.05)):
        model += [
            layers.Conv2D(
                64,
                5,
                padding="same",
                activation="relu",
                data_format=data_format,
                kernel_initializer=_normal(stddev, seed * 10 + number),
                name=f"conv{number + 1}",
                dtype=dtype,
            ),
            layers.MaxPooling2D(2, data_format=data_format, name=f"pool{number + 1}", dtype=dtype),
        ]
    model.append(layers.Flatten(data_format=data_format, name="flatten", dtype=dtype))
    widths = ((384, 0.04, 0.1, "relu"), (192, 0.04, 0.1, "relu"), (classes, 1 / 192, 0.0, None))
    for number, (width, stddev, bias, activation) in enumerate(widths):
        model.append(
            layers.Dense(
                width,
                activation=activation,
                kernel_initializer=_normal(stddev, seed * 10 + 2 + number),
                bias_initializer=keras.initializers.Constant(bias),
                name=f"dense{number + 1}",
                dtype=dtype,
            )
        )
    return keras.Sequential(model, name="convnet")


def mlp(
    shape: tuple[int, int, int], classes: int, *, seed: int = 0, dtype: str = "float32"
) -> keras.Model:
    """Returns the MLP of the paper: 20 sigmoid units, weights and biases of deviation 0.01.

    Args:
      shape: The shape of an image.
      classes: The number of outputs, logits.
      seed: The seed of the initial weights.
      dtype: The dtype of parameters and computation.

    Returns:
      A built model.
    """
    widths = ((20, "sigmoid", "hidden"), (classes, None, "output"))
    return _perceptron("mlp", shape, widths, seed, dtype)


def softmax(
    shape: tuple[int, int, int], classes: int, *, seed: int = 0, dtype: str = "float32"
) -> keras.Model:
    """Returns softmax regression: one layer, normal weights and biases of deviation 0.01.

    Args:
      shape: The shape of an image.
      classes: The number of outputs, logits.
      seed: The seed of the initial weights.
      dtype: The dtype of parameters and computation.

    Returns:
      A built model.
    """
    return _perceptron("softmax", shape, ((classes, None, "output"),), seed, dtype)


def _perceptron(
    title: str,
    shape: tuple[int, int, int],
    widths: Sequence[tuple[int, str | None, str]],
    seed: int,
    dtype: str,
) -> keras.Model:
    """Returns dense layers of (units, activation, name), all weights normal with deviation 0.01."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(name="flatten", dtype=dtype),
            *[
                layers.Dense(
                    width,
                    activation=activation,
                    kernel_initializer=_normal(0.01, seed * 10 + 2 * number),
                    bias_initializer=_normal(0.01, seed * 10 + 2 * number + 1),
                    name=name,
                    dtype=dtype,
                )
                for number, (width, activation, name) in enumerate(widths)
            ],
        ],
        name=title,
    )
