"""Functions that the programs of random networks use, besides TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import custom_op


def const(seed: int, *shape: int) -> np.ndarray:
    """Returns a constant array of normal numbers, rounded to be short in print."""
    return np.round(np.random.default_rng(seed).normal(size=shape), 2)


def grid(seed: int, *shape: int) -> np.ndarray:
    """Returns a constant array of different numbers, half a unit apart and a quarter off them."""
    count = int(np.prod(shape))
    places = np.random.default_rng(seed).permutation(count) - count // 2
    return (0.5 * places + 0.25).reshape(shape)


def mix(x: tf.Tensor, seed: int, *shape: int) -> tf.Tensor:
    """Returns combinations of all entries of a tensor, with constant factors, in a shape."""
    size = x.shape.num_elements()
    matrix = const(seed, size, int(np.prod(shape))) / np.sqrt(size)
    return tf.reshape(tf.reshape(x, [1, size]) @ matrix, shape)


def cycle(x: tf.Tensor, *shape: int) -> tf.Tensor:
    """Fills a shape with the entries of a tensor, repeating them cyclically."""
    places = np.arange(int(np.prod(shape))) % x.shape.num_elements()
    return tf.gather(tf.reshape(x, [-1]), places.reshape(shape))


def f32(x: tf.Tensor) -> tf.Tensor:
    """Casts to float32, which some kernels require."""
    return tf.cast(x, tf.float32)


def f64(x: tf.Tensor) -> tf.Tensor:
    """Casts to float64."""
    return tf.cast(x, tf.float64)


def pull(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, u: Any) -> tf.Tensor:
    """Returns TensorFlow's own vector-Jacobian product, as a part of a network."""
    x = tf.identity(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    slope = tape.gradient(y, x, output_gradients=tf.cast(u, y.dtype), unconnected_gradients="zero")
    return tf.convert_to_tensor(slope)


def push(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, t: Any) -> tf.Tensor:
    """Returns the Jacobian-vector product, as a part of a network."""
    return custom_op.jvp(function, x, tf.cast(t, x.dtype))[1]


def own_gradient(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function with its derivative defined by a `tf.custom_gradient`.

    A linearization defines it: TensorFlow's own gradient may lack a path, such as that of
    `tf.range`, and then the derivative would differ.
    """

    @tf.custom_gradient
    def stated(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return function(x), lambda u: custom_op.linearize(function, x).vjp(u)

    return stated


def call(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a `tf.function`."""
    return tf.function(function, autograph=False)


def recompute(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function with its intermediate values computed again in derivatives."""
    return custom_op.checkpoint(function)


class Stops:
    """`tf.stop_gradient`, whose values finite differences must keep constant.

    Attributes:
      kept: The values at the point, by key.
      frozen: Whether these values replace the input.
    """

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}
        self.frozen = False

    def __call__(self, x: tf.Tensor, key: str) -> tf.Tensor:
        """Returns x as a constant of differentiation."""
        if self.frozen:
            return tf.constant(self.kept[key])
        if tf.executing_eagerly():
            self.kept[key] = x.numpy()
        return tf.stop_gradient(x)


def _same(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _push_by_tapes(
    function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, t: tf.Tensor
) -> tf.Tensor:
    """`push` by TensorFlow's gradients, which need no trace."""
    with tf.GradientTape() as outer:
        seed = tf.zeros_like(function(x))
        outer.watch(seed)
        pulled = pull(function, x, seed)
    t = tf.cast(t, x.dtype)
    return outer.gradient(pulled, seed, output_gradients=t, unconnected_gradients="zero")


def scope(stops: Stops, once: bool = False) -> dict[str, Any]:
    """Returns the names that a program may use.

    Args:
      stops: The values of `stop`.
      once: Whether the program runs eagerly and only for its values, so that tracing is a waste.

    Returns:
      Objects by name.
    """
    names: dict[str, Any] = {
        "tf": tf,
        "np": np,
        "raw": tf.raw_ops,
        "stop": stops,
    }
    for function in (const, grid, mix, cycle, f32, f64, pull, push, call, recompute, own_gradient):
        names[function.__name__] = function
    if once:
        names |= {"call": _same, "recompute": _same, "own_gradient": _same, "push": _push_by_tapes}
    return names
