"""Products in TensorFlow: by custom_op, by TensorFlow's forward accumulator, by two transposes."""

from __future__ import annotations

import dataclasses
import inspect
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
VERSION = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"


def set_threads(threads: int) -> None:
    """Limits the threads that an operation uses."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


class _Places(keras.layers.Layer):
    """Adds a vector for each place."""

    def build(self, shape):
        self.values = self.add_weight(shape=shape[1:], name="values")

    def call(self, inputs):
        return inputs + self.values


def start_compiler() -> None:
    """Starts XLA's compiler, which takes its memory once in a process."""
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
    """Returns what can be measured on a workload."""
    model = _model(workload.network)
    names = [v.path.removeprefix(f"{model.name}/") for v in model.trainable_variables]
    values, direction = workload.parameters(), workload.vector()
    if set(names) != set(values):
        raise RuntimeError(f"Expected the parameters {sorted(values)}, got {sorted(names)}.")
    parameters = [tf.constant(values[name]) for name in names]
    vector = [tf.constant(direction[name]) for name in names]
    state = [v.value for v in model.non_trainable_variables]
    inputs, targets = (tf.constant(array) for array in workload.data())
    terms = float(np.prod(targets.shape))

    def network(parameters):
        return model.stateless_call(parameters, state, inputs, training=True)[0]

    def loss(parameters):
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(targets, network(parameters))
        )

    def loss_hessian(s, u):
        return (s * u - s * tf.reduce_sum(s * u, -1, keepdims=True)) / terms

    def dense(slopes):
        # Those of an embedding come as slices.
        return [tf.convert_to_tensor(slope) for slope in slopes]

    def gradient(parameters, v):
        del v
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            value = loss(parameters)
        return dense(tape.gradient(value, parameters))

    def with_custom_op(count, operator=custom_op.gauss_newton, **settings):
        def product(parameters, v):
            matrix = operator(network, parameters, "softmax_cross_entropy", targets, **settings)
            for _ in range(count):
                v = matrix @ v
            return v

        return product

    def with_accumulator(count):
        def product(parameters, v):
            for _ in range(count):
                with tf.GradientTape() as tape:
                    tape.watch(parameters)
                    with tf.autodiff.ForwardAccumulator(parameters, v) as forward:
                        z = network(parameters)
                u = loss_hessian(tf.nn.softmax(z), forward.jvp(z))
                v = dense(tape.gradient(z, parameters, u))
            return v

        return product

    def with_transposes(count):
        def product(parameters, v):
            with tf.GradientTape(persistent=True) as outer:
                with tf.GradientTape(persistent=True) as tape:
                    tape.watch(parameters)
                    z = network(parameters)
                weights = tf.zeros_like(z)
                outer.watch(weights)
                # Linear in the weights: the gradient with respect to them is the other product.
                pulled = dense(tape.gradient(z, parameters, weights))
            s = tf.nn.softmax(z)
            for _ in range(count):
                pushed = outer.gradient(pulled, weights, v)
                v = dense(tape.gradient(z, parameters, loss_hessian(s, pushed)))
            return v

        return product

    def hessian_with_accumulator(parameters, v):
        with tf.autodiff.ForwardAccumulator(parameters, v) as forward:
            slopes = gradient(parameters, None)
        return forward.jvp(slopes)

    def hessian_with_transposes(parameters, v):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            slopes = gradient(parameters, None)
        return dense(tape.gradient(slopes, parameters, v))

    def length(result: Any) -> float:
        return float(tf.linalg.global_norm(result))

    def distance(result: Any, other: Any) -> float:
        return length([a - b for a, b in zip(result, other, strict=True)])

    def measure(method, product, count, function):
        def trace():
            # From tensors: shapes are static.
            traced = tf.function(function, autograph=False)
            concrete = traced.get_concrete_function(parameters, vector)
            return lambda: concrete(*parameters, *vector)

        return Measure(method, product, count, trace, length)

    found = [measure(OWN, GRADIENT, 1, gradient)]
    for count in (1, 5):
        found.append(measure(HERE, GAUSS_NEWTON, count, with_custom_op(count)))
    for count in (1, 3):
        found += [
            measure(ACCUMULATOR, GAUSS_NEWTON, count, with_accumulator(count)),
            measure(TRANSPOSES, GAUSS_NEWTON, count, with_transposes(count)),
            measure(HERE, HESSIAN, count, with_custom_op(count, custom_op.hessian)),
        ]
    found += [
        measure(ACCUMULATOR, HESSIAN, 1, hessian_with_accumulator),
        measure(TRANSPOSES, HESSIAN, 1, hessian_with_transposes),
    ]
    if "product_dtype" in inspect.signature(custom_op.gauss_newton).parameters:
        for count in (1, 5):
            product = with_custom_op(count, product_dtype=tf.bfloat16)
            rounded = measure(HERE_BFLOAT16, GAUSS_NEWTON, count, product)
            exact = dataclasses.replace(rounded, method=HERE).name
            found.append(dataclasses.replace(rounded, reference=exact, distance=distance))
    return found
