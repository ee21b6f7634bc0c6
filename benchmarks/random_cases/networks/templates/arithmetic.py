"""Sums, products, quotients, powers, choices and reductions."""

from __future__ import annotations

from benchmarks.random_cases.networks.templates.base import (
    GRID,
    POSITIVE,
    UNIT,
    Axis,
    Value,
    each,
    op,
)

OTHER = Value("broadcast")
LIKE = Value("like")
RANKED = Value(rank=(1, 3))
each(
    [
        ("Add", "raw.Add(x={x}, y={y})"),
        ("AddV2", "{x} + {y}"),
        ("Sub", "{x} - {y}"),
        ("Sub", "{y} - {x}"),
        ("Mul", "{x} * {y}"),
        ("SquaredDifference", "tf.math.squared_difference({x}, {y})"),
        ("Atan2", "tf.atan2({x}, 1.0 + tf.square({y}))"),
    ],
    y=OTHER,
)
each(
    [
        ("AddN", "tf.add_n([{x}, {y}, {x}])"),
        ("AddN", "tf.add_n([{x}, tf.sin({x}), {y}])"),
        ("IdentityN", "tf.multiply(*tf.identity_n([{x}, {y}]))"),
        ("Complex Imag", "tf.math.imag(tf.exp(tf.complex(0.3 * {x}, {y})))"),
        ("Conj Real", "tf.math.real(tf.math.conj(tf.complex({x}, {y})) * tf.complex({y}, {y}))"),
        ("SelectV2", "tf.where(const(5, *{x}.shape) > 0.0, {x}, {y})"),
        ("Select", "raw.Select(condition=const(6, *{x}.shape) > 0.0, x={x}, y=2.0 * {y})"),
        ("NextAfter", "tf.math.nextafter({x}, {y})"),
        ("MulNoNan", "tf.math.multiply_no_nan({x}, {y})"),
    ],
    y=LIKE,
)
each(
    [
        ("RealDiv", "{x} / (0.5 + {y})"),
        ("Div", "raw.Div(x={x}, y=0.5 + {y})"),
        ("DivNoNan", "tf.math.divide_no_nan({x}, 0.5 + {y})"),
        ("Xdivy", "tf.math.xdivy({x}, 0.5 + {y})"),
        ("Xlogy", "tf.math.xlogy({x}, {y})"),
        ("Xlog1py", "tf.math.xlog1py({x}, {y})"),
        ("Pow", "tf.pow({y}, 0.5 * {x})"),
    ],
    y=Value("broadcast", domain=POSITIVE),
)
each(
    [
        ("Pow", "tf.pow({x}, 2.0)"),
        ("Pow", "tf.pow({x}, 3.0)"),
        ("Xlogy", "tf.math.xlogy({x}, 1.7)"),
    ]
)
# A grid's smallest entries are 0.05 from whole and half numbers; 3.0 is further than it reaches.
GRIDDED = Value(domain=GRID)
each(
    [
        ("Maximum", "tf.maximum({x}, 0.5) + 0.1 * {y}"),
        ("Minimum", "tf.minimum({x}, 0.5 * {x}) + 0.1 * {y}"),
        ("FloorDiv", "{x} * tf.math.floordiv({x}, 0.5) + {y}"),
        ("TruncateDiv", "{x} * raw.TruncateDiv(x={x}, y=f64(0.5)) + {y}"),
        ("FloorMod", "tf.math.floormod({x}, 0.5 + 0.0 * tf.square({y}))"),
        ("Mod", "raw.Mod(x={x}, y=0.5 + 0.0 * tf.square({y}))"),
        ("TruncateMod", "raw.TruncateMod(x={x}, y=0.5 + 0.0 * tf.square({y}))"),
        (
            "ClipByValue",
            "raw.ClipByValue(t={x}, clip_value_min=f64(-0.5), clip_value_max=f64(1.0)) + 0.1 * {x}",
        ),
        ("SelectV2 Greater", "tf.where({x} > 0.0, tf.exp(0.2 * {x}), {x} * {y})"),
    ],
    x=GRIDDED,
    y=LIKE,
)
op("Maximum", "tf.maximum({x}, tf.roll({x}, 1, 0))", x=Value(rank=(1, 2), domain=GRID))
op("Minimum", "tf.minimum({x}, tf.reverse({x}, [0]))", x=Value([2, 3], domain=GRID))
op(
    "ClipByValue",
    "raw.ClipByValue(t={x}, clip_value_min=0.02 * tf.tanh({low}) - 0.5, "
    "clip_value_max=0.02 * tf.tanh({high}) + 1.0) + 0.1 * {x}",
    x=GRIDDED,
    low=Value("scalar"),
    high=Value("scalar"),
)
op("Select", "raw.Select(condition=[True, False], x={x}, y={y})", x=[2, 3], y=[2, 3])

each(
    [
        ("Sum", "tf.reduce_sum({x}, {axis})"),
        ("Mean", "tf.reduce_mean({x}, {axis}, keepdims=True) - {x}"),
        ("EuclideanNorm", "tf.math.reduce_euclidean_norm({x}, {axis})"),
        ("Prod", "tf.reduce_prod(1.0 + 0.4 * {x}, {axis})"),
        ("Cumsum", "tf.cumsum({x}, {axis}, exclusive={flag})"),
        ("Cumprod", "tf.math.cumprod(1.0 + 0.4 * {x}, {axis}, reverse={flag})"),
        ("CumulativeLogsumexp", "tf.math.cumulative_logsumexp({x}, {axis}, reverse={flag})"),
        ("Exp Log", "tf.reduce_logsumexp({x}, {axis})"),
        ("Mean", "tf.math.reduce_variance({x}, {axis})"),
    ],
    x=RANKED,
    axis=Axis(),
    flag=("True", "False"),
)
each(
    [
        ("Max", "tf.reduce_max({x}, {axis})"),
        ("Min", "tf.reduce_min({x}, {axis})"),
    ],
    x=Value(rank=(1, 3), domain=GRID),
    axis=Axis(),
)
op("L2Loss", "{x} * tf.nn.l2_loss({x})")
op("TopKV2", "tf.math.top_k({x}, 2)[0]", x=Value([2, 3], domain=GRID))
op("TopKV2", "tf.sort({x}, axis=-1)", x=Value([2, 3], domain=GRID))
op("Softmax", "tf.nn.softmax({x})", x=RANKED, weight=2)
op("LogSoftmax", "tf.nn.log_softmax({x})", x=RANKED)
op("Softmax", "tf.nn.softmax({x}, axis=0)", x=Value([2, 3]))
op(
    "SoftmaxCrossEntropyWithLogits",
    "tf.nn.softmax_cross_entropy_with_logits({y}, {x})",
    x=[2, 3],
    y=Value([2, 3], domain=UNIT),
)
op(
    "SoftmaxCrossEntropyWithLogits",
    "raw.SoftmaxCrossEntropyWithLogits(features={x}, labels={y})[1]",
    x=[2, 3],
    y=Value([2, 3], domain=UNIT),
)
op(
    "SparseSoftmaxCrossEntropyWithLogits",
    "tf.nn.sparse_softmax_cross_entropy_with_logits([2, 0], {x})",
    x=[2, 3],
)
op(
    "SparseSoftmaxCrossEntropyWithLogits",
    "raw.SparseSoftmaxCrossEntropyWithLogits(features={x}, labels=[1, 2])[1]",
    x=[2, 3],
)
