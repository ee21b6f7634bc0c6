"""Draws a Keras model, a batch and a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

L = keras.layers
BATCH, CLASSES = 5, 3
FORMS = ("sequential", "functional", "silent", "told", "untold", "keyword", "nested", "default")
INPUTS = ("vector", "image", "sequence", "named")


@dataclasses.dataclass
class Case:
    """A model to train for a step.

    Attributes:
      model: The built model.
      inputs: A batch of inputs for `fit`.
      targets: The targets of the batch.
      keras_loss: The loss for `compile`.
      loss: The loss for `mlhf.Objective`.
      activation: The activation of the outputs: `"softmax"`, `"sigmoid"` or None.
      features: The components of the model.
      text: The model in words.
    """

    model: Any
    inputs: Any
    targets: np.ndarray
    keras_loss: Any
    loss: Any
    activation: str | None
    features: list[str]
    text: str


def generate(random: np.random.Generator, seed: int) -> Case:
    """Draws a case.

    Args:
      random: The generator to draw from.
      seed: The seed of initial weights and of dropout.

    Returns:
      The case.
    """
    keras.utils.set_random_seed(seed)
    kind = str(random.choice(INPUTS))
    inputs = _inputs(random, kind)
    layers, features = _body(random, kind, seed, str(getattr(inputs, "dtype", "")))
    head, activation, targets, keras_loss, loss = _head(random)
    form = str(random.choice(FORMS))
    model = _assembled(form, kind, [*layers, *head], inputs)
    _constrain(random, model, features)
    text = f"{form} on {kind}: " + ", ".join(
        f"{type(layer).__name__}{'' if layer.trainable else ' (frozen)'}"
        for layer in [*layers, *head]
    )
    titles = [getattr(given, "name", given) for given in (loss, keras_loss)]
    text += "; {} for {}, outputs after {}".format(*titles, activation)
    return Case(
        model, inputs, targets, keras_loss, loss, activation,
        sorted({form, kind, str(activation), *features}), text,
    )  # fmt: skip


def _inputs(random: np.random.Generator, kind: str) -> Any:
    if kind == "sequence":
        return random.integers(0, 6, (BATCH, 4)).astype("int32")
    if kind == "image":
        image = random.normal(size=(BATCH, 5, 5, 2))
        if random.random() < 0.3:
            return (50 * np.abs(image)).astype("uint8")
        return image
    vectors = random.normal(1.0, 2.0, (BATCH, 4)).astype(random.choice(["float32", "float64"]))
    if kind == "vector":
        return vectors
    # In another order than the model's, and one that it does not take.
    return {"second": vectors[:, :2], "first": random.normal(size=(BATCH, 3))}


def _body(
    random: np.random.Generator, kind: str, seed: int, dtype: str
) -> tuple[list[Any], list[str]]:
    layers: list[Any] = []
    if kind == "image":
        if dtype == "uint8":
            layers.append(L.Rescaling(1 / 50))
        choices: dict[str, Callable] = _of_images(random, seed)
    elif kind == "sequence":
        layers.append(L.Embedding(6, 3, mask_zero=bool(random.random() < 0.3)))
        choices = _of_sequences(random, seed)
    else:
        choices = {}
    choices = {**choices, **_of_anything(random, seed)}
    features = [type(layer).__name__ for layer in layers]
    for _ in range(random.integers(1, 4)):
        name = str(random.choice(sorted(choices)))
        layer = choices[name]()
        features.append(name)
        layers.append(layer)
        if random.random() < 0.15 and name not in ("Attention",):
            layer.trainable = False
            features.append("frozen")
    if kind in ("image", "sequence"):
        # Masked layers have the mask taken off the sequence here.
        flat = [L.GlobalAveragePooling2D, L.Flatten] if kind == "image" else [Pooled]
        layers.append(flat[random.integers(len(flat))]())
    return layers, features


def _of_anything(random: np.random.Generator, seed: int) -> dict[str, Callable]:
    activation = str(random.choice(["tanh", "relu", "sigmoid", "gelu", "softplus", "linear"]))
    momentum = float(random.choice([0.0, 0.5, 0.99, 1.0]))
    return {
        "Dense": lambda: L.Dense(4, activation=activation, use_bias=bool(random.random() < 0.8)),
        "BatchNormalization": lambda: L.BatchNormalization(
            momentum=momentum, scale=bool(random.random() < 0.7), epsilon=0.1
        ),
        "LayerNormalization": lambda: L.LayerNormalization(epsilon=0.1),
        "UnitNormalization": L.UnitNormalization,
        "Dropout": lambda: L.Dropout(0.4, seed=seed),
        "GaussianNoise": lambda: L.GaussianNoise(0.3, seed=seed),
        "GaussianDropout": lambda: L.GaussianDropout(0.3, seed=seed),
        "Activation": lambda: L.Activation(activation),
        "Lambda": lambda: L.Lambda(lambda x: x + keras.ops.sin(x)),
        "Block": lambda: Block(momentum, seed),
    }


def _of_images(random: np.random.Generator, seed: int) -> dict[str, Callable]:
    padding = str(random.choice(["same", "valid"]))
    return {
        "Conv2D": lambda: L.Conv2D(3, 2, padding=padding, activation="tanh"),
        "DepthwiseConv2D": lambda: L.DepthwiseConv2D(2, padding="same"),
        "SeparableConv2D": lambda: L.SeparableConv2D(3, 2, padding="same"),
        "Conv2DTranspose": lambda: L.Conv2DTranspose(2, 2),
        "MaxPooling2D": lambda: L.MaxPooling2D(
            2, strides=int(random.integers(1, 3)), padding="same"
        ),
        "AveragePooling2D": lambda: L.AveragePooling2D(2, padding="same"),
        "SpatialDropout2D": lambda: L.SpatialDropout2D(0.4, seed=seed),
        "GroupNormalization": lambda: L.GroupNormalization(groups=1, epsilon=0.1),
        "UpSampling2D": lambda: L.UpSampling2D(2),
        "ZeroPadding2D": lambda: L.ZeroPadding2D(1),
    }


def _of_sequences(random: np.random.Generator, seed: int) -> dict[str, Callable]:
    return {
        "Conv1D": lambda: L.Conv1D(3, 2, padding="causal", activation="tanh"),
        "MaxPooling1D": lambda: L.MaxPooling1D(2, strides=1, padding="same"),
        "SpatialDropout1D": lambda: L.SpatialDropout1D(0.4, seed=seed),
        "Attention": lambda: SelfAttention(seed),
    }


@keras.saving.register_keras_serializable("benchmarks")
class Block(L.Layer):
    """Layers inside a layer, which passes no `training` on."""

    def __init__(self, momentum: float, seed: int) -> None:
        super().__init__()
        self.normalize = L.BatchNormalization(momentum=momentum, epsilon=0.1)
        self.drop = L.Dropout(0.3, seed=seed + 1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x plus a function of it."""
        return x + self.drop(self.normalize(x))


@keras.saving.register_keras_serializable("benchmarks")
class SelfAttention(L.Layer):
    """Attention of a sequence to itself, with dropout."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 2, dropout=0.2, seed=seed)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns x plus its attention to itself."""
        return x + self.attention(x, x)


@keras.saving.register_keras_serializable("benchmarks")
class Pooled(L.Layer):
    """The mean over the unmasked part of a sequence; it ends the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True

    def call(self, x: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Returns [B, channels]."""
        if mask is None:
            return keras.ops.mean(x, 1)
        present = keras.ops.cast(keras.ops.expand_dims(mask, -1), x.dtype)
        return keras.ops.sum(x * present, 1) / (keras.ops.sum(present, 1) + 1)

    def compute_mask(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> None:
        """Returns None: the sequence is gone."""
        return None


def _head(random: np.random.Generator) -> tuple[list[Any], str | None, np.ndarray, Any, Any]:
    """Draws the last layers, their activation, targets, and the loss for Keras and for mlhf."""
    losses = keras.losses
    classes = random.integers(0, CLASSES, BATCH).astype("int32")
    one_hot = np.eye(CLASSES)[classes]
    yes_no = random.integers(0, 2, (BATCH, CLASSES)).astype("float64")
    numbers = random.normal(size=(BATCH, CLASSES))
    sparse, full = losses.SparseCategoricalCrossentropy, losses.CategoricalCrossentropy
    binary = losses.BinaryCrossentropy
    choices = [
        (None, classes, sparse(from_logits=True), "softmax_cross_entropy"),
        (None, classes, sparse(from_logits=True), sparse(from_logits=True)),
        ("softmax", classes, sparse(), "softmax_cross_entropy"),
        ("softmax", classes, "sparse_categorical_crossentropy", "sparse_categorical_crossentropy"),
        ("softmax", one_hot, full(label_smoothing=0.2), full(label_smoothing=0.2)),
        (None, yes_no, binary(from_logits=True), "sigmoid_cross_entropy"),
        ("sigmoid", yes_no, "binary_crossentropy", "binary_crossentropy"),
        (None, numbers, "mse", "mse"),
        ("softmax", one_hot, losses.MeanSquaredError(), "mean_squared_error"),
    ]
    activation, targets, keras_loss, loss = choices[random.integers(len(choices))]
    if activation and random.random() < 0.3:
        layer = L.Softmax() if activation == "softmax" else L.Activation(activation)
        return [L.Dense(CLASSES), layer], activation, targets, keras_loss, loss
    return [L.Dense(CLASSES, activation=activation)], activation, targets, keras_loss, loss


def _run(layers: list[Any], x: Any, **named: Any) -> Any:
    for layer in layers:
        x = layer(x, **named)
    return x


class Joined(L.Layer):
    """Concatenates two named inputs."""

    def call(self, x: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns them along the last axis."""
        return keras.ops.concatenate([x["first"], x["second"]], -1)


class Subclassed(keras.Model):
    """Layers in a row."""

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.row = layers


class Silent(Subclassed):
    """Takes `training` without passing it on."""

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the outputs."""
        return _run(self.row, x)


class Untold(Subclassed):
    """Takes no `training`."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the outputs."""
        return _run(self.row, x)


class Told(Subclassed):
    """Passes `training` on explicitly to layers that take it."""

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the outputs."""
        for layer in self.row:
            told = isinstance(layer, (L.Dropout, L.BatchNormalization))
            x = layer(x, training=training) if told else layer(x)
        return x


class Keyword(Subclassed):
    """Takes `training` by name only."""

    def call(self, x: tf.Tensor, *, training: bool | None = None) -> tf.Tensor:
        """Returns the outputs."""
        return _run(self.row, x)


class Default(Subclassed):
    """Has `training=True` by default."""

    def call(self, x: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Returns the outputs."""
        return _run(self.row, x)


SUBCLASSED = {
    "silent": Silent,
    "untold": Untold,
    "told": Told,
    "keyword": Keyword,
    "default": Default,
}


def _assembled(form: str, kind: str, layers: list[Any], inputs: Any) -> Any:
    if kind == "named":
        if form in ("sequential", "functional"):
            named = {name: keras.Input(part.shape[1:], name=name) for name, part in inputs.items()}
            joined = L.Concatenate()([named["first"], named["second"]])
            ordered = {name: named[name] for name in sorted(named)}
            return keras.Model(ordered, _run(layers, joined))
        layers = [Joined(), *layers]
    if form == "sequential":
        model = keras.Sequential(layers)
    elif form == "functional":
        x = keras.Input(inputs.shape[1:], dtype=str(inputs.dtype))
        return keras.Model(x, _run(layers, x))
    elif form == "nested":
        middle = len(layers) // 2
        model = Silent([Untold(layers[:middle]), keras.Sequential(layers[middle:])])
    else:
        model = SUBCLASSED[form](layers)
    model(inputs)
    return model


def _constrain(random: np.random.Generator, model: Any, features: list[str]) -> None:
    if random.random() < 0.2:
        variables = model.trainable_variables
        variable = variables[random.integers(len(variables))]
        variable.constraint = [keras.constraints.NonNeg(), keras.constraints.MaxNorm(0.5)][
            random.integers(2)
        ]
        features.append("constraint")
