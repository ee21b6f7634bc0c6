"""Keras models train as `fit` trains them: the same loss, weights and state after a step."""

import keras
import numpy as np
import pytest

from tests.mlhf import fit

L = keras.layers
X = np.random.default_rng(0).normal(1, 2, [8, 4, 4]).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 8).astype("int32")
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Inner(L.Layer):
    """A layer of layers, which hands nothing on."""

    def __init__(self):
        super().__init__()
        self.normalize, self.drop = L.BatchNormalization(momentum=0.7), L.Dropout(0.4, seed=3)

    def call(self, x):
        return self.drop(self.normalize(x))


class Base(keras.Model):
    def __init__(self):
        super().__init__()
        self.flat, self.hidden = L.Flatten(), L.Dense(5, activation="tanh")
        self.inner, self.logits = Inner(), L.Dense(3)

    def run(self, x):
        return self.logits(self.inner(self.hidden(self.flat(x))))


class Silent(Base):
    """What the issue is of: `training` is taken and not handed on."""

    def call(self, x, training=None):
        return self.run(x)


class KeywordOnly(Base):
    def call(self, x, *, training=False):
        return self.run(x)


class Untold(Base):
    """Without the argument `fit` tells nothing, and layers do what they do by default."""

    def call(self, x):
        return self.run(x)


class Told(Base):
    """Layers are told by hand, one of them the opposite."""

    def call(self, x, training=True):
        x = self.hidden(self.flat(x))
        return self.logits(self.inner.drop(self.inner.normalize(x, training=False), training=True))


class Nested(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = keras.Sequential([Untold(), L.Dropout(0.3, seed=5), L.Dense(3)])

    def call(self, x, training=None):
        return self.body(x)


def built(make, x=X):
    keras.utils.set_random_seed(2)
    model = make()
    model(x[:2] if not isinstance(x, dict) else {name: part[:2] for name, part in x.items()})
    return model


def beginners(softmax=False):
    """The model of TensorFlow's quickstart for beginners."""
    return keras.Sequential(
        [
            L.Flatten(input_shape=(4, 4)) if False else keras.Input((4, 4)),
            L.Flatten(),
            L.Dense(6, activation="relu"),
            L.Dropout(0.2, seed=1),
            L.Dense(3),
        ]
    )


def frozen():
    model = Silent()
    model.inner.normalize.trainable = False
    return model


@pytest.mark.parametrize(
    "make", [Silent, KeywordOnly, Untold, Told, Nested, beginners, frozen], ids=lambda m: m.__name__
)
def test_a_step_is_that_of_fit(make):
    fit.check(built(make), X, Y, LOGITS, "softmax_cross_entropy")
