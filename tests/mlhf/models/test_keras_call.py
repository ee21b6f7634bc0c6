"""Keras models train as `fit` trains them: the same loss, weights and state after a step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlhf.models import keras_call
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
    """`training` is taken and not handed on."""

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


def beginners():
    """The model of TensorFlow's quickstart for beginners."""
    layers = [L.Flatten(), L.Dense(6, activation="relu"), L.Dropout(0.2, seed=1), L.Dense(3)]
    return keras.Sequential([keras.Input((4, 4)), *layers])


def frozen():
    model = Silent()
    model.inner.normalize.trainable = False
    return model


@pytest.mark.parametrize(
    "make", [Silent, KeywordOnly, Untold, Told, Nested, beginners, frozen], ids=lambda m: m.__name__
)
def test_a_step_is_that_of_fit(make):
    fit.check(built(make), X, Y, LOGITS, "softmax_cross_entropy")


class ByContext(L.Layer):
    """Doubles where the call context says so, which Keras hands on past models that do not know."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)
        if hasattr(self, "_register_call_context_args"):
            self._register_call_context_args("doubled")

    def call(self, x, doubled=False):
        return self.dense(x) * (2.0 if doubled else 1.0)


def test_inputs_by_name_in_any_order_with_one_too_many_and_one_output_in_a_list():
    random = np.random.default_rng(3)
    keras.utils.set_random_seed(0)
    first, second = keras.Input([2], name="first"), keras.Input([3], name="second")
    outputs = ByContext()(L.Concatenate()([first, second]))
    model = keras.Model({"first": first, "second": second}, [outputs])
    sizes = {"second": 3, "third": 1, "first": 2}
    x = {name: random.normal(size=(8, size)) for name, size in sizes.items()}
    fit.check(model, x, Y, [LOGITS], "softmax_cross_entropy")


class Unseeded(L.Layer):
    """Draws from Keras' own generator, whose state is nobody's variable."""

    def call(self, x):
        return x + 0.1 * keras.random.normal(keras.ops.shape(x))


class Counting(L.Layer):
    """Keeps a metric of its own, on which nothing depends."""

    def __init__(self):
        super().__init__()
        self.mean = keras.metrics.Mean()

    def call(self, x):
        self.mean.update_state(x)
        return x


def ended(layer, shape=(8, 4, 4)):
    return lambda: keras.Sequential(
        [keras.Input(batch_shape=shape), layer, L.Flatten(), L.Dense(3)]
    )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: L.LSTM(3, stateful=True, name="memory"), "layers .'memory'. of stateful=True"),
        (lambda: L.Bidirectional(L.GRU(3, stateful=True)), "of stateful=True, whose states"),
        (Unseeded, "writes into .*seed_generator_state.*SeedGenerator.., an attribute"),
    ],
)
def test_a_state_that_no_variable_of_the_model_holds_is_refused(layer, message):
    model = ended(layer())()
    for training in (True, False):
        with pytest.raises(ValueError, match=message):
            values = [tf.convert_to_tensor(v) for v in model.trainable_variables]
            state = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]
            keras_call.call(model, values, state, X, training=training)
    with pytest.raises(ValueError, match=message):
        fit.as_mlhf(model, "softmax_cross_entropy", X, Y)


def test_a_metric_inside_a_layer_is_no_state():
    fit.check(built(ended(Counting())), X, Y, LOGITS, "softmax_cross_entropy")
