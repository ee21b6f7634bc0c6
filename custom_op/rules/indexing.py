"""Rules for gathering, scattering, segments and sequences: linear in values, not in indices."""

from __future__ import annotations

import tensorflow as tf

from custom_op.registry import LinearMap, register_r_forward, replay
from custom_op.rules.shapes import linear_in


@register_r_forward(
    "DynamicPartition",
    "Gather",
    "GatherNd",
    "GatherV2",
    "SegmentMean",
    "SegmentSum",
    "Slice",
    "StridedSlice",
    "UnsortedSegmentSum",
)
def linear_in_values(op: tf.Operation) -> LinearMap:
    """R(A x) = A R(x); the other inputs are indices and sizes."""
    return linear_in(0)(op)


def _segment_factors(
    op: tf.Operation, like: tf.Tensor, segments: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    """Returns the factor of each segment's sum, broadcasting against its rows."""
    kind = op.type.removeprefix("SparseSegment").removesuffix("Grad")
    power = {"Sum": 0.0, "SqrtN": 0.5, "Mean": 1.0}[kind]
    one = tf.ones([], like.dtype)
    sizes = tf.math.unsorted_segment_sum(tf.fill(tf.shape(segments), one), segments, count)
    return tf.reshape(tf.maximum(sizes, one) ** -power, [-1] + [1] * (like.shape.rank - 1))


@register_r_forward("SparseSegmentMean", "SparseSegmentSqrtN", "SparseSegmentSum")
def segments_of_rows(op: tf.Operation) -> LinearMap:
    """Sums of chosen rows, divided by their number or its root; linear in the rows."""
    # TensorFlow's gradient of these kernels has no gradient itself.
    data, places, segments = op.inputs
    output = op.outputs[0]
    count = tf.shape(output)[0]
    factors = _segment_factors(op, data, segments, count)

    def tangent_map(t: tf.Tensor, *_: None) -> tf.Tensor:
        tangents = tf.math.unsorted_segment_sum(tf.gather(t, places), segments, count)
        return tf.ensure_shape(factors * tangents, output.shape)

    return tangent_map


@register_r_forward("SparseSegmentMeanGrad", "SparseSegmentSqrtNGrad", "SparseSegmentSumGrad")
def gradient_of_segments_of_rows(op: tf.Operation) -> LinearMap:
    """The transpose of sums of chosen rows, linear in the upstream gradient."""
    upstream, places, segments, count = op.inputs
    output = op.outputs[0]
    factors = _segment_factors(op, upstream, segments, tf.shape(upstream)[0])

    def tangent_map(t: tf.Tensor, *_: None) -> tf.Tensor:
        tangents = tf.math.unsorted_segment_sum(tf.gather(factors * t, segments), places, count)
        return tf.ensure_shape(tangents, output.shape)

    return tangent_map


@register_r_forward("ScatterNd")
def scatter(op: tf.Operation) -> LinearMap:
    """The tangents are scattered as the values are."""
    return linear_in(1)(op)


@register_r_forward("StridedSliceGrad")
def transposed_slice(op: tf.Operation) -> LinearMap:
    """The tangents take the positions of the values, the fifth input."""
    return linear_in(4)(op)


def _linear_in(op: tf.Operation, positions: list[int]) -> LinearMap:
    """Returns the tangent map of an operation that is jointly linear in several inputs."""

    def tangent_map(*tangents: tf.Tensor | None) -> list[tf.Tensor]:
        inputs = list(op.inputs)
        for i in positions:
            inputs[i] = tf.zeros_like(inputs[i]) if tangents[i] is None else tangents[i]
        return replay(op, inputs)

    return tangent_map


@register_r_forward(
    "ScatterNdNonAliasingAdd", "TensorScatterAdd", "TensorScatterSub", "TensorScatterUpdate"
)
def scatter_into(op: tf.Operation) -> LinearMap:
    """R(x with values at indices) = R(x) with R(values) there, or added there."""
    return _linear_in(op, [0, 2])


@register_r_forward("TensorStridedSliceUpdate")
def slice_update(op: tf.Operation) -> LinearMap:
    """R(x with values in a slice) = R(x) with R(values) there."""
    return _linear_in(op, [0, 4])


@register_r_forward("MatrixSetDiagV2", "MatrixSetDiagV3")
def set_diagonal(op: tf.Operation) -> LinearMap:
    """R(x with a diagonal d) = R(x) with the diagonal R(d)."""
    return _linear_in(op, [0, 1])


@register_r_forward("DynamicStitch", "ParallelDynamicStitch")
def stitch(op: tf.Operation) -> LinearMap:
    """Every row of R(y) is the tangent of the value that was written last."""
    # TensorFlow's gradient gives the cotangent of a row to all values that were written there.
    count = len(op.inputs) // 2
    places, values = list(op.inputs[:count]), list(op.inputs[count:])
    sizes = [tf.size(place) for place in places]
    numbers = tf.split(tf.range(tf.add_n(sizes)), tf.stack(sizes), num=count)
    last = tf.dynamic_stitch(
        places, [tf.reshape(n, tf.shape(p)) for n, p in zip(numbers, places, strict=True)]
    )
    rest = tf.shape(op.outputs[0])[1:]

    def tangent_map(*tangents: tf.Tensor | None) -> tf.Tensor:
        rows = [
            tf.reshape(
                tf.zeros_like(value) if t is None else t, tf.concat([[tf.size(place)], rest], 0)
            )
            for t, value, place in zip(tangents[count:], values, places, strict=True)
        ]
        return tf.gather(tf.concat(rows, 0), last)

    return tangent_map


@register_r_forward("TopKV2")
def largest(op: tf.Operation) -> LinearMap:
    """R(the k largest) are the tangents at their indices; the indices have none."""
    places = op.outputs[1]
    axes = op.inputs[0].shape.rank - 1
    return lambda t, *_: (tf.gather(t, places, axis=-1, batch_dims=axes), None)


@register_r_forward("OneHot")
def one_hot(op: tf.Operation) -> LinearMap:
    """R(on where chosen, off elsewhere): both values may have tangents."""
    places, depth, _, _ = op.inputs
    dtype = op.outputs[0].dtype
    chosen = tf.one_hot(places, depth, 1.0, 0.0, op.get_attr("axis"), dtype)

    def tangent_map(_: None, __: None, on: tf.Tensor | None, off: tf.Tensor | None) -> tf.Tensor:
        terms = [] if on is None else [chosen * on]
        if off is not None:
            terms.append((1 - chosen) * off)
        return sum(terms[1:], terms[0])

    return tangent_map


@register_r_forward("LinSpace")
def evenly_spaced(op: tf.Operation) -> LinearMap:
    """R(a + (b - a) s) = R(a) (1 - s) + R(b) s, with s from 0 to 1."""
    start, stop, count = op.inputs
    share = tf.linspace(tf.zeros_like(start), tf.ones_like(stop), count)

    def tangent_map(a: tf.Tensor | None, b: tf.Tensor | None, _: None) -> tf.Tensor:
        terms = [] if a is None else [(1 - share) * a]
        if b is not None:
            terms.append(share * b)
        return sum(terms[1:], terms[0])

    return tangent_map


@register_r_forward("Range")
def steps(op: tf.Operation) -> LinearMap:
    """R(a + i d) = R(a) + i R(d); the count is constant."""
    output = op.outputs[0]
    count = tf.range(tf.size(output))

    def tangent_map(a: tf.Tensor | None, _: tf.Tensor | None, d: tf.Tensor | None) -> tf.Tensor:
        total = tf.zeros_like(output) if a is None else tf.zeros_like(output) + a
        return total if d is None else total + tf.cast(count, output.dtype) * d

    return tangent_map
