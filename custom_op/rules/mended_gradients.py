"""Gradients that TensorFlow registers for its own operations, and that give wrong numbers.

They are replaced in TensorFlow's registry when `custom_op` is imported, because tapes and
`tf.gradients` run through a user's network without asking this package: second derivatives of a
maximum pooling by TensorFlow's kernels are zero where the kernel may overwrite the tangent that it
reads (docs/tensorflow_faults.md), and have no explicit paddings. First derivatives stay as they
are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import tensorflow_internals as internals
from custom_op.linear_maps.maxima import first_places, put, take
from custom_op.rules.max_pooling_variants import told_places, windows_of

Gradient = Callable[..., Any]


def _of_gradient(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """The gradient of `MaxPoolGrad` and its siblings in (values, pooled, cotangents, ...)."""
    taken = take(upstream, first_places(op.inputs[0], windows_of(op)))
    return _in_third(op, taken)


def _of_second_gradient(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """The gradient of `MaxPoolGradGrad` and its siblings in (values, pooled, tangents, ...)."""
    values = op.inputs[0]
    return _in_third(op, put(upstream, first_places(values, windows_of(op)), values))


def _in_third(op: Any, gradient: tf.Tensor) -> list[tf.Tensor | None]:
    # Zeros and not None: the values matter, and their derivative is zero almost everywhere.
    zeros = [tf.zeros_like(op.inputs[i]) for i in range(2)]
    return [*zeros, gradient, *[None] * (len(op.inputs) - 3)]


def _of_gradient_with_places(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    taken = take(upstream, told_places(op, op.inputs[2]))
    return [tf.zeros_like(op.inputs[0]), taken, None]


_MENDED: dict[str, Gradient] = {
    "MaxPoolGrad": _of_gradient,
    "MaxPoolGradV2": _of_gradient,
    "MaxPool3DGrad": _of_gradient,
    "MaxPoolGradGrad": _of_second_gradient,
    "MaxPoolGradGradV2": _of_second_gradient,
    "MaxPool3DGradGrad": _of_second_gradient,
    "MaxPoolGradWithArgmax": _of_gradient_with_places,
}


def _register() -> None:
    for op_type, gradient in _MENDED.items():
        internals.replace_gradient(op_type, gradient)


_register()
