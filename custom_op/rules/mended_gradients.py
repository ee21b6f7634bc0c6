"""Replaces gradients of TensorFlow's own operations that give wrong numbers.

They are replaced in TensorFlow's registry when `custom_op` is imported, because tapes and
`tf.gradients` pass through a user's network without calling this package. What TensorFlow gets
wrong: second derivatives of a maximum pooling are zero if the kernel may overwrite the tangent that
it reads (docs/tensorflow_faults.md), and do not support explicit paddings; first derivatives of
poolings are kept. The gradient of a cumulative product is zero where a factor is, and with it the
second derivative of every product of several factors; that of a cumulative log-sum-exp takes the
logarithm of its cotangent, and that of a Euclidean norm divides by it, so that their own
derivatives are not finite where a cotangent is zero; that of a softmax cross entropy assumes that
targets sum to 1, and omits them in its own derivative. The derivative of `xlogy` and its siblings
in a first argument of zero is zero, that of `bessel_i1` at zero is 1 instead of 1/2, the second
ones of `bessel_j1` and `spence` are wrong or lost in rounding where their first are 0/0, and
`dynamic_stitch` passes cotangents to values that later ones have overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op import tensorflow_internals as internals
from custom_op.linear_maps.maxima import first_places, put, take
from custom_op.rules.arithmetic import one_unless, up_to
from custom_op.rules.max_pooling_variants import told_places, windows_of
from custom_op.rules.recurrence import gradient_of_log_sum_exp, gradient_of_product

Gradient = Callable[..., Any]


def _of_gradient(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Returns the gradient of `MaxPoolGrad` and its siblings in (values, pooled, cotangents)."""
    taken = take(upstream, first_places(op.inputs[0], windows_of(op)))
    return _in_third(op, taken)


def _of_second_gradient(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Returns the gradient of `MaxPoolGradGrad` and its siblings in (values, pooled, tangents)."""
    values = op.inputs[0]
    return _in_third(op, put(upstream, first_places(values, windows_of(op)), values))


def _in_third(op: Any, gradient: tf.Tensor) -> list[tf.Tensor | None]:
    # Zeros, not None: the result depends on the values, with derivative zero almost everywhere.
    zeros = [tf.zeros_like(op.inputs[i]) for i in range(2)]
    return [*zeros, gradient, *[None] * (len(op.inputs) - 3)]


def _of_gradient_with_places(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    taken = take(upstream, told_places(op, op.inputs[2]))
    return [tf.zeros_like(op.inputs[0]), taken, None]


def _of_softmax_cross_entropy(
    op: Any, upstream: tf.Tensor, upstream_of_second: tf.Tensor | None
) -> list[tf.Tensor | None]:
    """Returns the gradient in (logits, labels) of the loss and of the output b = s - labels."""
    # That of the loss is s Σ labels - labels = b - s Σb: eager tapes keep b, but not the labels.
    logits, difference = op.inputs[0], op.outputs[1]
    log_probabilities = tf.nn.log_softmax(logits)
    probabilities = tf.exp(log_probabilities)
    upstream = upstream[..., None]
    excess = tf.reduce_sum(difference, -1, keepdims=True)
    in_logits = upstream * (difference - probabilities * excess)
    in_labels = -upstream * log_probabilities
    if upstream_of_second is not None and not internals.is_zeros(upstream_of_second):
        weighted = probabilities * upstream_of_second
        in_logits += weighted - probabilities * tf.reduce_sum(weighted, -1, keepdims=True)
        in_labels -= upstream_of_second
    return [in_logits, in_labels]


def _of_two(in_first: Gradient, in_second: Gradient) -> Gradient:
    """Returns the gradient of an elementwise operation from its derivatives in x and y."""

    def gradient(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
        x, y = op.inputs[0], op.inputs[1]
        shapes = tf.shape(x), tf.shape(y)
        axes = tf.raw_ops.BroadcastGradientArgs(s0=shapes[0], s1=shapes[1])
        return [
            tf.reshape(tf.reduce_sum(upstream * tf.math.conj(slope(x, y)), summed), shape)
            for slope, summed, shape in zip((in_first, in_second), axes, shapes, strict=True)
        ]

    return gradient


_of_xlogy = _of_two(
    lambda x, y: tf.math.xlogy(one_unless(x, up_to(y, 0)), y),
    tf.math.xdivy,
)
_of_xlog1py = _of_two(
    lambda x, y: tf.math.xlog1py(one_unless(x, up_to(y, -1)), y),
    lambda x, y: tf.math.xdivy(x, 1 + y),
)
_of_xdivy = _of_two(
    lambda x, y: tf.math.xdivy(one_unless(x, tf.equal(y, 0)), y),
    lambda x, y: tf.math.xdivy(-x, y**2),
)


def _around(
    x: tf.Tensor,
    center: float,
    series: Sequence[float],
    formula: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Returns a function of x that is a power series near a point where its formula is 0/0.

    Args:
      x: The argument.
      center: The point.
      series: The coefficients of the powers of x - center, the constant first.
      formula: The function elsewhere.
    """
    u = x - center
    small = tf.abs(u) < 1e-2
    total = tf.zeros_like(u)
    for coefficient in reversed(series):
        total = total * u + coefficient
    return tf.where(small, total, formula(tf.where(small, tf.cast(center + 1, x.dtype), x)))


_BESSEL = [1 / 2, 0, 3 / 16, 0, 5 / 384, 0, 7 / 18432, 0, 1 / 163840]


def _of_bessel_i1(op: Any, upstream: tf.Tensor) -> tf.Tensor:
    special = tf.math.special
    return upstream * _around(
        op.inputs[0], 0, _BESSEL, lambda x: special.bessel_i0(x) - special.bessel_i1(x) / x
    )


def _of_bessel_j1(op: Any, upstream: tf.Tensor) -> tf.Tensor:
    special = tf.math.special
    series = [(-1) ** (i // 2) * coefficient for i, coefficient in enumerate(_BESSEL)]
    return upstream * _around(
        op.inputs[0], 0, series, lambda x: special.bessel_j0(x) - special.bessel_j1(x) / x
    )


def _of_spence(op: Any, upstream: tf.Tensor) -> tf.Tensor:
    series = [-((-1) ** i) / (i + 1) for i in range(10)]
    return upstream * _around(op.inputs[0], 1, series, lambda x: tf.math.log(x) / (1 - x))


def _of_euclidean_norm(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Returns the gradient of ‖x‖, u x / ‖x‖, and zero at zero."""
    x, axes = op.inputs[0], op.inputs[1]
    norm = tf.math.reduce_euclidean_norm(x, axes, keepdims=True)
    return [tf.reshape(upstream, tf.shape(norm)) * tf.math.divide_no_nan(x, norm), None]


def _of_stitch(op: Any, upstream: tf.Tensor) -> list[tf.Tensor | None]:
    """Returns the gradient of `DynamicStitch`: zero for values that later ones overwrite."""
    count = len(op.inputs) // 2
    places = list(op.inputs[:count])
    upstream = tf.convert_to_tensor(upstream)
    sizes = [tf.size(place) for place in places]
    numbers = tf.split(tf.range(tf.add_n(sizes)), tf.stack(sizes), num=count)
    numbers = [tf.reshape(n, tf.shape(p)) for n, p in zip(numbers, places, strict=True)]
    last = tf.dynamic_stitch(places, numbers)
    ones = tf.ones([tf.rank(upstream) - 1], tf.int32)
    result: list[tf.Tensor | None] = [None] * count
    for number, place in zip(numbers, places, strict=True):
        stands = tf.reshape(tf.gather(last, place) == number, tf.concat([tf.shape(place), ones], 0))
        taken = tf.gather(upstream, place)
        result.append(tf.where(stands, taken, tf.zeros([], taken.dtype)))
    return result


_MENDED: dict[str, Gradient] = {
    "Xlogy": _of_xlogy,
    "Xlog1py": _of_xlog1py,
    "Xdivy": _of_xdivy,
    "BesselI1": _of_bessel_i1,
    "BesselJ1": _of_bessel_j1,
    "Spence": _of_spence,
    "DynamicStitch": _of_stitch,
    "EuclideanNorm": _of_euclidean_norm,
    "Cumprod": gradient_of_product,
    "CumulativeLogsumexp": gradient_of_log_sum_exp,
    "SoftmaxCrossEntropyWithLogits": _of_softmax_cross_entropy,
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
