"""The families that come along: plain, convolutional and normalised residual networks."""

from __future__ import annotations

import keras

from train_val import normalization
from train_val.task_families.registry import family


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"Expected {name} of at least 1, got {value}.")


class _Initial:
    """Initial kernels, each from a seed of its own."""

    def __init__(self, seed: int, activation: str):
        self._next = 1000 * seed
        self._kind = (
            "HeNormal" if activation in ("relu", "elu", "gelu", "silu") else "GlorotUniform"
        )

    def __call__(self, kind: str | None = None) -> keras.initializers.Initializer:
        self._next += 1
        return getattr(keras.initializers, kind or self._kind)(seed=self._next)


@family
def mlp(
    shape, classes, seed=0, width: int = 32, depth: int = 1, activation: str = "tanh"
) -> keras.Model:
    """Returns `depth` hidden layers of `width` units."""
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


@family
def convnet(
    shape,
    classes,
    seed=0,
    width: int = 8,
    depth: int = 2,
    activation: str = "relu",
    dense: int = 32,
) -> keras.Model:
    """Returns `depth` 3 x 3 convolutions of `width` channels, each pooled, and a dense layer."""
    _check(width=width, depth=depth, dense=dense)
    layers, initial = keras.layers, _Initial(seed, activation)
    model = [keras.Input(shape)]
    side = min(shape[:2])
    for number in range(depth):
        model.append(
            layers.Conv2D(
                width,
                3,
                padding="same",
                activation=activation,
                kernel_initializer=initial(),
                name=f"conv{number + 1}",
            )
        )
        if side >= 4:
            model.append(layers.MaxPooling2D(2, name=f"pool{number + 1}"))
            side //= 2
    model.append(layers.Flatten(name="flatten"))
    model.append(layers.Dense(dense, activation, kernel_initializer=initial(), name="hidden"))
    model.append(layers.Dense(classes, kernel_initializer=initial("GlorotUniform"), name="output"))
    return keras.Sequential(model, name="convnet")


@family
def residual(
    shape, classes, seed=0, width: int = 8, depth: int = 1, activation: str = "relu"
) -> keras.Model:
    """Returns `depth` normalised residual blocks of two convolutions on `width` channels."""
    _check(width=width, depth=depth)
    layers, initial = keras.layers, _Initial(seed, activation)

    def convolution(x, name):
        return layers.Conv2D(
            width, 3, padding="same", use_bias=False, kernel_initializer=initial(), name=name
        )(x)

    inputs = keras.Input(shape)
    x = convolution(inputs, "first")
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
