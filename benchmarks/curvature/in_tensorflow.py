"""Products in TensorFlow: by custom_op, by TensorFlow's forward accumulator, by two transposes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import custom_op
from benchmarks.curvature.measures import GAUSS_NEWTON, GRADIENT, HESSIAN, OWN, Measure
from benchmarks.curvature.workloads import (
    BLOCKS,
    CLASSES,
    HEADS,
    LENGTH,
    WIDTH,
    WORDS,
    Workload,
)
from train_val.networks import convnets, resnet

HERE, ACCUMULATOR, TRANSPOSES = "custom_op", "ForwardAccumulator", "double VJP"
HERE_BFLOAT16 = "custom_op, bfloat16"
Tensors = list[tf.Tensor]
Product = Callable[[Tensors, Tensors], Tensors]
VERSION = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"


def set_threads(threads: int) -> None:
    """Limits the threads that an operation uses."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


class _Places(keras.layers.Layer):
    """Adds a vector for each position."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.values = self.add_weight(shape=shape[1:], name="values")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + self.values


def start_compiler() -> None:
    """Starts XLA's compiler, which allocates its memory once per process."""
    x = tf.ones([8, 8])
    tf.function(lambda x: tf.reduce_mean(tf.tanh(x) * x, 0), jit_compile=True)(x)


def _transformer() -> keras.Model:
    layers = keras.layers
    ids = keras.Input([LENGTH], dtype="int32")
    x = _Places(name="places")(layers.Embedding(WORDS, WIDTH, name="words")(ids))
    for block in range(BLOCKS):
        name = f"block{block + 1}_"
        h = layers.LayerNormalization(epsilon=1e-5, name=f"{name}norm1")(x)
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"{name}attention")
        x = x + attention(h, h, use_causal_mask=True)
        h = layers.LayerNormalization(epsilon=1e-5, name=f"{name}norm2")(x)
        h = layers.Dense(4 * WIDTH, activation="gelu", name=f"{name}dense1")(h)
        x = x + layers.Dense(WIDTH, name=f"{name}dense2")(h)
    x = layers.LayerNormalization(epsilon=1e-5, name="final_norm")(x)
    return keras.Model(ids, layers.Dense(WORDS, name="logits")(x), name="transformer")


def _model(network: str) -> keras.Model:
    shape = (32, 32, 3)
    if network == "convnet":
        return convnets.convnet(shape, CLASSES)
    if network == "resnet20":
        return resnet.cifar_resnet(shape, CLASSES, resnet_size=20)
    return _transformer()


def measures(workload: Workload) -> list[Measure]:
    """Returns the measures of a workload."""
    problem = _Problem(workload)
    measure, with_custom_op = problem.measure, problem.with_custom_op
    chosen = [measure(OWN, GRADIENT, 1, problem.gradient)]
    for count in (1, 5):
        chosen.append(measure(HERE, GAUSS_NEWTON, count, with_custom_op(count)))
    for count in (1, 3):
        chosen += [
            measure(ACCUMULATOR, GAUSS_NEWTON, count, problem.with_accumulator(count)),
            measure(TRANSPOSES, GAUSS_NEWTON, count, problem.with_transposes(count)),
            measure(HERE, HESSIAN, count, with_custom_op(count, custom_op.hessian)),
        ]
    chosen += [
        measure(ACCUMULATOR, HESSIAN, 1, problem.hessian_with_accumulator),
        measure(TRANSPOSES, HESSIAN, 1, problem.hessian_with_transposes),
    ]
    if "product_dtype" in inspect.signature(custom_op.gauss_newton).parameters:
        for count in (1, 5):
            product = with_custom_op(count, product_dtype=tf.bfloat16)
            rounded = measure(HERE_BFLOAT16, GAUSS_NEWTON, count, product)
            exact = dataclasses.replace(rounded, method=HERE).name
            chosen.append(dataclasses.replace(rounded, reference=exact, distance=_distance))
    return chosen


class _Problem:
    """A workload's network, data and direction, and its products by several methods."""

    def __init__(self, workload: Workload) -> None:
        model = _model(workload.network)
        names = [v.path.removeprefix(f"{model.name}/") for v in model.trainable_variables]
        values, direction = workload.parameters(), workload.vector()
        if set(names) != set(values):
            raise RuntimeError(f"Expected the parameters {sorted(values)}, got {sorted(names)}.")
        self._model = model
        self._parameters = [tf.constant(values[name]) for name in names]
        self._vector = [tf.constant(direction[name]) for name in names]
        self._state = [v.value for v in model.non_trainable_variables]
        self._inputs, self._targets = (tf.constant(array) for array in workload.data())
        self._terms = float(np.prod(self._targets.shape))

    def measure(self, method: str, product: str, count: int, function: Product) -> Measure:
        """Returns the measure of a function of parameters and a vector."""

        def trace() -> Callable[[], Any]:
            # From tensors: shapes are static.
            traced = tf.function(function, autograph=False)
            concrete = traced.get_concrete_function(self._parameters, self._vector)
            return lambda: concrete(*self._parameters, *self._vector)

        return Measure(method, product, count, trace, _length)

    def gradient(self, parameters: Tensors, v: Tensors | None) -> Tensors:
        """Returns the gradient of the loss; v is not used."""
        del v
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            logits = self._network(parameters)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self._targets, logits)
            value = tf.reduce_mean(losses)
        return _dense(tape.gradient(value, parameters))

    def with_custom_op(
        self, count: int, operator: Callable[..., Any] = custom_op.gauss_newton, **settings: Any
    ) -> Product:
        """Returns repeated products by an operator of custom_op."""

        def product(parameters: Tensors, v: Tensors) -> Tensors:
            loss = "softmax_cross_entropy"
            matrix = operator(self._network, parameters, loss, self._targets, **settings)
            for _ in range(count):
                v = matrix @ v
            return v

        return product

    def with_accumulator(self, count: int) -> Product:
        """Returns repeated Gauss-Newton products by TensorFlow's forward accumulator."""

        def product(parameters: Tensors, v: Tensors) -> Tensors:
            for _ in range(count):
                with tf.GradientTape() as tape:
                    tape.watch(parameters)
                    with tf.autodiff.ForwardAccumulator(parameters, v) as forward:
                        z = self._network(parameters)
                u = self._loss_hessian(tf.nn.softmax(z), forward.jvp(z))
                v = _dense(tape.gradient(z, parameters, u))
            return v

        return product

    def with_transposes(self, count: int) -> Product:
        """Returns repeated Gauss-Newton products by transposing the backward pass."""

        def product(parameters: Tensors, v: Tensors) -> Tensors:
            with tf.GradientTape(persistent=True) as outer:
                with tf.GradientTape(persistent=True) as tape:
                    tape.watch(parameters)
                    z = self._network(parameters)
                weights = tf.zeros_like(z)
                outer.watch(weights)
                # Linear in the weights: the gradient with respect to them is the other product.
                pulled = _dense(tape.gradient(z, parameters, weights))
            s = tf.nn.softmax(z)
            for _ in range(count):
                pushed = outer.gradient(pulled, weights, v)
                v = _dense(tape.gradient(z, parameters, self._loss_hessian(s, pushed)))
            return v

        return product

    def hessian_with_accumulator(self, parameters: Tensors, v: Tensors) -> Tensors:
        """Returns a Hessian product by TensorFlow's forward accumulator."""
        with tf.autodiff.ForwardAccumulator(parameters, v) as forward:
            slopes = self.gradient(parameters, None)
        return forward.jvp(slopes)

    def hessian_with_transposes(self, parameters: Tensors, v: Tensors) -> Tensors:
        """Returns a Hessian product by a tape over a tape."""
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            slopes = self.gradient(parameters, None)
        return _dense(tape.gradient(slopes, parameters, v))

    def _network(self, parameters: Tensors) -> tf.Tensor:
        return self._model.stateless_call(parameters, self._state, self._inputs, training=True)[0]

    def _loss_hessian(self, s: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        return (s * u - s * tf.reduce_sum(s * u, -1, keepdims=True)) / self._terms


def _dense(slopes: Sequence[Any]) -> Tensors:
    # The slopes of an embedding are IndexedSlices.
    return [tf.convert_to_tensor(slope) for slope in slopes]


def _length(result: Any) -> float:
    return float(tf.linalg.global_norm(result))


def _distance(result: Any, other: Any) -> float:
    return _length([a - b for a, b in zip(result, other, strict=True)])
