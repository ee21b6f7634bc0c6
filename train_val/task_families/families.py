"""The built-in families: plain, convolutional and normalised residual networks.

A new family is a function here and its row in `train_val/networks/network_table.py`.
"""

from __future__ import annotations

from typing import Any

import keras

from train_val.networks import normalization
from train_val.networks.resnet import cifar_resnet


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"Expected {name} of at least 1, got {value}.")


def _shrunk(inputs: Any, factor: int) -> Any:
    """Returns images of fewer pixels, each the mean of a square of `factor` x `factor` pixels."""
    if factor == 1:
        return inputs
    return keras.layers.AveragePooling2D(factor, name="shrunk")(inputs)


class _Initial:
    """Makes initializers of kernels, each with its own seed."""

    def __init__(self, seed: int, activation: str) -> None:
        self._next = 1000 * seed
        self._kind = (
            "HeNormal" if activation in ("relu", "elu", "gelu", "silu") else "GlorotUniform"
        )

    def __call__(self, kind: str | None = None) -> keras.initializers.Initializer:
        self._next += 1
        return getattr(keras.initializers, kind or self._kind)(seed=self._next)


def mlp(
    shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    width: int = 32,
    depth: int = 1,
    activation: str = "tanh",
) -> keras.Model:
    """Returns a network with `depth` hidden layers of `width` units."""
    _check(width=width, depth=depth)
    layers, initial = keras.layers, _Initial(seed, activation)
    model = [keras.Input(shape), layers.Flatten(name="flatten")]
    for number in range(depth):
        model.append(
            layers.Dense(
                width, activation, kernel_initializer=initial(), name=f"hidden{number + 1}"
            )
        )
    model.append(layers.Dense(classes, kernel_initializer=initial("GlorotUniform"), name="output"))
    return keras.Sequential(model, name="mlp")


def convnet(
    shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    width: int = 8,
    depth: int = 2,
    activation: str = "relu",
    dense: int = 32,
    shrink: int = 1,
) -> keras.Model:
    """Returns `depth` 3 x 3 convolutions of `width` channels, each with pooling, and a dense layer.

    The images are averaged over squares of `shrink` x `shrink` pixels first.
    """
    _check(width=width, depth=depth, dense=dense, shrink=shrink)
    layers, initial = keras.layers, _Initial(seed, activation)
    inputs = keras.Input(shape)
    x = _shrunk(inputs, shrink)
    for number in range(depth):
        x = layers.Conv2D(
            width,
            3,
            padding="same",
            activation=activation,
            kernel_initializer=initial(),
            name=f"conv{number + 1}",
        )(x)
        if min(x.shape[1:3]) >= 4:
            x = layers.MaxPooling2D(2, name=f"pool{number + 1}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(dense, activation, kernel_initializer=initial(), name="hidden")(x)
    outputs = layers.Dense(classes, kernel_initializer=initial("GlorotUniform"), name="output")(x)
    return keras.Model(inputs, outputs, name="convnet")


def residual(
    shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    width: int = 8,
    depth: int = 1,
    activation: str = "relu",
    shrink: int = 1,
) -> keras.Model:
    """Returns `depth` normalised residual blocks of two convolutions on `width` channels.

    The images are averaged over squares of `shrink` x `shrink` pixels first.
    """
    _check(width=width, depth=depth, shrink=shrink)
    layers, initial = keras.layers, _Initial(seed, activation)

    def convolution(x: Any, name: str) -> Any:
        return layers.Conv2D(
            width, 3, padding="same", use_bias=False, kernel_initializer=initial(), name=name
        )(x)

    inputs = keras.Input(shape)
    x = convolution(_shrunk(inputs, shrink), "first")
    for block in range(depth):
        y = x
        for number in (1, 2):
            name = f"block{block + 1}_{number}"
            y = normalization.ExactBatchNormalization(momentum=0.9, name=f"{name}_norm")(y)
            y = layers.Activation(activation, name=f"{name}_{activation}")(y)
            y = convolution(y, f"{name}_conv")
        x = layers.Add(name=f"block{block + 1}")([x, y])
    x = normalization.ExactBatchNormalization(momentum=0.9, name="last_norm")(x)
    x = layers.Activation(activation, name=f"last_{activation}")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    outputs = layers.Dense(classes, kernel_initializer=initial("GlorotUniform"), name="output")(x)
    return keras.Model(inputs, outputs, name="residual")


def resnet(
    shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    size: int = 8,
    width: int = 4,
    shrink: int = 1,
) -> keras.Model:
    """Returns `resnet.cifar_resnet` with `width`, twice and four times `width` channels.

    The images are averaged over squares of `shrink` x `shrink` pixels first.
    """
    _check(width=width, shrink=shrink)
    inputs = keras.Input(shape)
    images = _shrunk(inputs, shrink)
    network = cifar_resnet(
        tuple(images.shape[1:]), classes, resnet_size=size, width=width, seed=seed
    )
    return keras.Model(inputs, network.call(images), name="resnet")
