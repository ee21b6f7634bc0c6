"""A table of Keras layers: how each is built, and what it is fed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

L = keras.layers
LINE, PLANE, VOLUME = (2, 5, 4), (2, 5, 4, 4), (1, 3, 4, 3, 2)


@dataclasses.dataclass(frozen=True)
class LayerCase:
    """A layer and its inputs.

    Attributes:
      build: Makes the layer; it takes the dtype.
      shapes: Of the inputs, one or several.
      dtype: What to compute in; float32 where TensorFlow has no kernels in float64.
      training: What the layer is called with, None for nothing.
      integers: Whether the input is a tensor of integers, and closed over.
    """

    build: Callable[..., Any]
    shapes: Any = LINE
    dtype: str = "float64"
    training: bool | None = None
    integers: bool = False


def _of(layer, *arguments, **settings):
    return lambda dtype: layer(*arguments, dtype=dtype, **settings)


def _around(wrapper, layer, *arguments, **settings):
    """A layer that wraps another."""
    return lambda dtype: wrapper(layer(dtype), *arguments, dtype=dtype, **settings)


def _cell(cell, **settings):
    return lambda dtype: L.RNN(cell(3, dtype=dtype), dtype=dtype, **settings)


def _stacked(dtype):
    cells = [L.GRUCell(2, dtype=dtype), L.LSTMCell(3, dtype=dtype)]
    return L.RNN(L.StackedRNNCells(cells, dtype=dtype), dtype=dtype)


def _itself(layer):
    """Attention of a sequence to itself."""

    def build(dtype):
        inner = layer(dtype)
        inputs = keras.Input(LINE[1:], batch_size=LINE[0], dtype=dtype)
        return keras.Model(inputs, inner([inputs, inputs]))

    return build


def _attending(layer):
    def build(dtype):
        inner = layer(dtype)
        inputs = keras.Input(LINE[1:], batch_size=LINE[0], dtype=dtype)
        return keras.Model(inputs, inner(inputs, inputs))

    return build


def _ids(dtype, **settings):
    return L.Embedding(6, 3, dtype=dtype, **settings)


class _FullRank(keras.layers.Layer):
    """What a user writes: weights, and operations of `keras.ops`."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, inputs):
        return keras.ops.logsumexp(keras.ops.matmul(inputs, keras.ops.tanh(self.kernel)), axis=-1)


CASES = {
    "Dense": LayerCase(_of(L.Dense, 3, activation="gelu")),
    "EinsumDense": LayerCase(_of(L.EinsumDense, "abc,cd->abd", (None, 3), bias_axes="d")),
    "Embedding": LayerCase(_ids, integers=True),
    "ReversibleEmbedding": LayerCase(_of(L.ReversibleEmbedding, 6, 3), integers=True),
    "Conv1D": LayerCase(_of(L.Conv1D, 3, 3, activation="silu", padding="causal")),
    "Conv1D_dilated": LayerCase(_of(L.Conv1D, 3, 2, dilation_rate=2)),
    "Conv2D": LayerCase(_of(L.Conv2D, 3, 3, strides=2, padding="same"), PLANE),
    "Conv2D_dilated": LayerCase(_of(L.Conv2D, 2, 2, dilation_rate=2), PLANE),
    "Conv2D_grouped": LayerCase(_of(L.Conv2D, 4, 3, groups=2), PLANE),
    "Conv2D_first": LayerCase(
        _of(L.Conv2D, 3, 3, data_format="channels_first"), PLANE, dtype="float32"
    ),
    "Conv3D": LayerCase(_of(L.Conv3D, 2, 2), VOLUME),
    "Conv3D_first": LayerCase(_of(L.Conv3D, 2, 2, data_format="channels_first"), VOLUME),
    "Conv1DTranspose": LayerCase(_of(L.Conv1DTranspose, 3, 3, strides=2)),
    "Conv2DTranspose": LayerCase(_of(L.Conv2DTranspose, 3, 3, strides=2), PLANE),
    "Conv3DTranspose": LayerCase(_of(L.Conv3DTranspose, 2, 2, strides=2), VOLUME),
    "DepthwiseConv1D": LayerCase(_of(L.DepthwiseConv1D, 3)),
    "DepthwiseConv2D": LayerCase(_of(L.DepthwiseConv2D, 3, depth_multiplier=2), PLANE),
    "DepthwiseConv2D_first": LayerCase(
        _of(L.DepthwiseConv2D, 3, data_format="channels_first"), PLANE
    ),
    "DepthwiseConv2D_both": LayerCase(_of(L.DepthwiseConv2D, 2, strides=2, dilation_rate=2), PLANE),
    "SeparableConv1D": LayerCase(_of(L.SeparableConv1D, 3, 3)),
    "SeparableConv2D": LayerCase(_of(L.SeparableConv2D, 3, 3), PLANE),
    "PReLU": LayerCase(_of(L.PReLU, shared_axes=[1], alpha_initializer="ones")),
    "BatchNormalization": LayerCase(_of(L.BatchNormalization), PLANE, training=True),
    "BatchNormalization_still": LayerCase(_of(L.BatchNormalization), PLANE, training=False),
    "LayerNormalization": LayerCase(_of(L.LayerNormalization, axis=[1, 2])),
    "GroupNormalization": LayerCase(_of(L.GroupNormalization, groups=2), PLANE),
    "RMSNormalization": LayerCase(_of(L.RMSNormalization)),
    "SpectralNormalization": LayerCase(
        _around(L.SpectralNormalization, lambda dtype: L.Dense(3, dtype=dtype)), training=False
    ),
    "Normalization": LayerCase(_of(L.Normalization, mean=1.0, variance=2.0)),
    "MultiHeadAttention": LayerCase(_attending(_of(L.MultiHeadAttention, 2, 3))),
    "GroupQueryAttention": LayerCase(_attending(_of(L.GroupQueryAttention, 2, 4, 2))),
    "Attention": LayerCase(_itself(_of(L.Attention, use_scale=True))),
    "AdditiveAttention": LayerCase(_itself(_of(L.AdditiveAttention))),
    "SimpleRNN": LayerCase(_of(L.SimpleRNN, 3, return_sequences=True)),
    "GRU": LayerCase(_of(L.GRU, 3, reset_after=False)),
    "GRU_unrolled": LayerCase(_of(L.GRU, 3, unroll=True)),
    "LSTM": LayerCase(_of(L.LSTM, 3, go_backwards=True)),
    "LSTM_unrolled": LayerCase(_of(L.LSTM, 3, unroll=True)),
    "RNN": LayerCase(_cell(L.SimpleRNNCell)),
    "LSTMCell": LayerCase(_cell(L.LSTMCell, unroll=True)),
    "GRUCell": LayerCase(_cell(L.GRUCell, unroll=True)),
    "SimpleRNNCell": LayerCase(_cell(L.SimpleRNNCell, unroll=True)),
    "StackedRNNCells": LayerCase(_stacked),
    "Bidirectional": LayerCase(
        _around(L.Bidirectional, lambda dtype: L.GRU(2, dtype=dtype, return_sequences=True))
    ),
    "TimeDistributed": LayerCase(
        _around(L.TimeDistributed, lambda dtype: L.Dense(3, dtype=dtype)), (2, 3, 4)
    ),
    "ConvLSTM1D": LayerCase(_of(L.ConvLSTM1D, 2, 3, padding="same"), (1, 2, 4, 2)),
    "ConvLSTM2D": LayerCase(_of(L.ConvLSTM2D, 2, 2), (1, 2, 3, 3, 2)),
    "ConvLSTM3D": LayerCase(_of(L.ConvLSTM3D, 2, 2), (1, 2, 2, 3, 2, 2)),
    "own": LayerCase(lambda dtype: _FullRank(dtype=dtype)),
}

# Layers with weights of which none is trained, and bridges to other frameworks.
WITHOUT_PARAMETERS = {
    "Discretization": "its bins are adapted, not trained",
    "FlaxLayer": "runs on JAX",
    "Hashing": "has none of its own",
    "HashedCrossing": "has none of its own",
    "IntegerLookup": "a table",
    "JaxLayer": "runs on JAX",
    "Layer": "the base class",
    "MelSpectrogram": "its filters are fixed",
    "STFTSpectrogram": "its filters are fixed",
    "StringLookup": "a table",
    "TFSMLayer": "runs a saved graph",
    "TextVectorization": "a table",
    "TorchModuleWrapper": "runs on PyTorch",
    "Wrapper": "the base class",
}


def layers_with_weights() -> set[str]:
    """The public layers whose class, or one that it inherits from, makes weights or wraps layers.

    Of two names for one layer, the one that the class has.
    """
    found = set()
    for name in dir(L):
        layer = getattr(L, name)
        if not (inspect.isclass(layer) and issubclass(layer, L.Layer)):
            continue
        own = [k for k in layer.__mro__ if k.__module__.startswith("keras.src.layers")]
        own = [k for k in own if k.__name__ not in ("Layer", "Operation")]
        sources = [inspect.getsource(k) for k in own]
        if any("add_weight(" in s or "self.cell" in s or "self.layer" in s for s in sources):
            found.add(layer.__name__)
    return found


def build(case: LayerCase, seed: int = 0) -> tuple[Callable[..., Any], tuple[Any, Any]]:
    """A layer as a function of its parameters and its inputs, and the point.

    The state (moving statistics, seeds) that the layer hands back is thrown away.
    """
    keras.utils.set_random_seed(seed)
    random = np.random.default_rng(seed)
    layer = case.build(case.dtype)
    if case.integers:
        ids = tf.constant(random.integers(0, 6, size=(2, 4)))
        layer.build(ids.shape)
        x = tf.zeros([1], case.dtype)
    else:
        x = tf.constant(random.normal(size=case.shapes), case.dtype)
        layer(x)
    settings = {} if case.training is None else {"training": case.training}
    state = [variable.value for variable in layer.non_trainable_variables]
    parameters = [
        tf.constant(random.normal(size=v.shape) / 2, v.dtype) + v.value
        for v in layer.trainable_variables
    ]

    def function(point):
        weights, inputs = point
        if case.integers:
            return layer.stateless_call(weights, state, ids, **settings)[0] + inputs
        return layer.stateless_call(weights, state, inputs, **settings)[0]

    return function, (parameters, x)
