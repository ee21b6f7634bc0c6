"""Properties of the rules over shapes, axes, strides, broadcasting and dtypes.

Each example goes through `check_rule`: finite differences, linearity, and <u, Jv> = <Jᵀu, v>.
Tracing is what costs, so the examples are few and the same in every run; `-m slow` draws more,
and checks second derivatives too.
"""

import math
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import custom_op

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=3)
SEEDS = st.integers(0, 1000)
BOTH = st.booleans()


def _values(seed, shape, low=-2.0, high=2.0):
    """Different from each other, from zero and from half integers: away from kinks and ties."""
    count = math.prod(shape)
    places = np.random.default_rng(seed).permutation(count)
    return (low + (high - low) * (places + 0.4637) / max(count, 1)).reshape(shape)


# --- A strategy draws a function and the point.


@st.composite
def elementwise(draw):
    anywhere = {
        "relu": tf.nn.relu, "relu6": lambda x: tf.nn.relu6(4 * x), "leaky": tf.nn.leaky_relu,
        "elu": tf.nn.elu, "selu": tf.nn.selu, "softplus": tf.nn.softplus, "tanh": tf.tanh,
        "sigmoid": tf.sigmoid, "softsign": tf.nn.softsign, "gelu": tf.nn.gelu, "erf": tf.math.erf,
        "silu": tf.nn.silu, "exp": tf.exp, "sinh": tf.sinh, "atan": tf.atan, "abs": tf.abs,
        "square": tf.square, "cos": tf.cos, "negative": tf.negative, "cast": lambda x: x + 0,
    }  # fmt: skip
    inside = {"asin": tf.asin, "atanh": tf.atanh, "erfinv": tf.math.erfinv, "log1p": tf.math.log1p}
    positive = {
        "log": tf.math.log,
        "sqrt": tf.sqrt,
        "rsqrt": tf.math.rsqrt,
        "lgamma": tf.math.lgamma,
    }
    function = draw(st.sampled_from([*anywhere.values(), *inside.values(), *positive.values()]))
    low, high = (
        (0.1, 3) if function in positive.values()
        else (-0.9, 0.9) if function in inside.values()
        else (-2, 2)
    )  # fmt: skip
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    return function, _values(draw(SEEDS), shape, low, high)


@st.composite
def broadcasting(draw):
    function = draw(
        st.sampled_from(
            [
                tf.add, tf.subtract, tf.multiply, tf.divide, tf.maximum, tf.minimum, tf.atan2,
                tf.math.squared_difference, tf.math.divide_no_nan, tf.math.multiply_no_nan,
                tf.math.xlogy, tf.math.floormod, lambda x, y: tf.pow(y, x),
                lambda x, y: tf.where(x > y, x, y * y),
            ]
        )
    )  # fmt: skip
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
    left, right = shapes.input_shapes
    seed = draw(SEEDS)
    point = (_values(seed, left), _values(seed + 1, right, 0.6, 2.1))
    which = draw(st.sampled_from(["both", "left", "right"]))
    if which == "left":
        return lambda x: function(x, tf.cast(point[1], x.dtype)), point[0]
    if which == "right":
        return lambda y: function(tf.cast(point[0], y.dtype), y), point[1]
    return lambda p: function(*p), point


@st.composite
def reductions(draw):
    function = draw(
        st.sampled_from(
            [
                tf.reduce_sum, tf.reduce_mean, tf.reduce_max, tf.reduce_min, tf.reduce_prod,
                tf.math.reduce_euclidean_norm, tf.reduce_logsumexp, tf.math.reduce_variance,
            ]
        )
    )  # fmt: skip
    x = _values(draw(SEEDS), draw(SHAPES))
    axes = draw(st.sets(st.integers(0, x.ndim - 1)))
    axes = [axis - x.ndim if draw(BOTH) else axis for axis in axes]
    keepdims = draw(BOTH)
    axis = draw(st.sampled_from([None, axes])) if axes else None
    return lambda x: function(x, axis=axis, keepdims=keepdims), x


@st.composite
def cumulative(draw):
    function = draw(st.sampled_from([tf.cumsum, tf.math.cumprod, tf.math.cumulative_logsumexp]))
    x = _values(draw(SEEDS), draw(SHAPES))
    if draw(BOTH) and function is not tf.math.cumulative_logsumexp:
        x.flat[draw(st.integers(0, x.size - 1))] = 0
    settings = {"axis": draw(st.integers(-x.ndim, x.ndim - 1)), "reverse": draw(BOTH)}
    # Before the first place a sum of exponentials is -∞.
    if function is not tf.math.cumulative_logsumexp:
        settings["exclusive"] = draw(BOTH)
    return lambda x: function(x, **settings), x


@st.composite
def products(draw):
    seed = draw(SEEDS)
    if draw(BOTH):
        equation = draw(
            st.sampled_from(["bij,bjk->bik", "bij,jk->ikb", "ij,ij->i", "ij,ij->", "ii,ij->j"])
        )
        left, right = equation.split("->")[0].split(",")
        sizes = {letter: draw(st.integers(1, 3)) for letter in sorted(set(left + right))}
        shapes = ([sizes[letter] for letter in part] for part in (left, right))
        point = tuple(_values(seed + i, shape) for i, shape in enumerate(shapes))
        return lambda p: tf.einsum(equation, *p), point
    n, k, m = (draw(st.integers(1, 3)) for _ in range(3))
    outer = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=2))
    settings = {"transpose_a": draw(BOTH), "transpose_b": draw(BOTH)}
    left = (k, n) if settings["transpose_a"] else (n, k)
    right = (m, k) if settings["transpose_b"] else (k, m)
    point = (
        _values(seed, outer.input_shapes[0] + left),
        _values(seed + 1, outer.input_shapes[1] + right),
    )
    return lambda p: tf.matmul(*p, **settings), point


def _geometry(draw, rank):
    sizes = [draw(st.integers(3, 5)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 2)) for _ in range(rank)]
    return sizes, kernel, strides, draw(st.sampled_from(["SAME", "VALID"]))


@st.composite
def convolutions(draw):
    rank, seed = draw(st.integers(1, 3)), draw(SEEDS)
    sizes, kernel, strides, padding = _geometry(draw, rank)
    dilations = [1] * rank
    groups, inside, outside = 1, draw(st.integers(1, 2)), draw(st.integers(1, 2))
    if rank == 2:
        groups = draw(st.integers(1, 2))
        if draw(BOTH):
            dilations = [draw(st.integers(1, 2)) for _ in range(2)]
            sizes = [size + 2 for size in sizes]
        if draw(BOTH):
            padding = [[0, 0], *([draw(st.integers(0, 2)) for _ in "ab"] for _ in "hw"), [0, 0]]

    def convolve(p):
        x, w = p
        if rank == 2:
            return tf.nn.conv2d(x, w, strides, padding, dilations=dilations)
        return tf.nn.convolution(x, w, strides, padding)

    x = _values(seed, [2, *sizes, inside * groups])
    return convolve, (x, _values(seed + 1, [*kernel, inside, outside * groups]))


@st.composite
def transposed_convolutions(draw):
    rank, seed = draw(st.integers(1, 3)), draw(SEEDS)
    sizes, kernel, strides, padding = _geometry(draw, rank)
    inside, outside = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    # The sizes that the forward convolution maps to these.
    grown = [
        size * stride if padding == "SAME" else (size - 1) * stride + k
        for size, stride, k in zip(sizes, strides, kernel, strict=True)
    ]
    shape = [1, *grown, inside]
    point = (
        _values(seed, [1, *sizes, outside]),
        _values(seed + 1, [*kernel, inside, outside]),
    )
    return lambda p: tf.nn.conv_transpose(*p, shape, strides, padding), point


@st.composite
def depthwise_convolutions(draw):
    sizes, kernel, (stride, _), padding = _geometry(draw, 2)
    channels, multiplier, seed = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(SEEDS)
    dilation = 1 if stride > 1 else draw(st.integers(1, 2))
    sizes = [size + 2 for size in sizes]

    def convolve(p):
        return tf.nn.depthwise_conv2d(
            *p, [1, stride, stride, 1], padding, dilations=[dilation, dilation]
        )

    point = _values(seed, [2, *sizes, channels]), _values(seed, [*kernel, channels, multiplier])
    return convolve, point


@st.composite
def poolings(draw):
    sizes, kernel, strides, padding = _geometry(draw, 2)
    pool = draw(st.sampled_from([tf.nn.max_pool2d, tf.nn.avg_pool2d]))
    if draw(BOTH):
        strides = kernel
    x = _values(draw(SEEDS), [2, *sizes, 2])
    return lambda x: pool(x, kernel, strides, padding), x


@st.composite
def reshaping(draw):
    x = _values(draw(SEEDS), draw(SHAPES))
    axis = draw(st.integers(0, x.ndim - 1))
    order = draw(st.permutations(range(x.ndim)))
    pads = [[draw(st.integers(0, 2)) for _ in "ab"] for _ in range(x.ndim)]
    mirrored = [[min(p, size - 1) for p in pad] for pad, size in zip(pads, x.shape, strict=True)]
    times = [draw(st.integers(1, 2)) for _ in range(x.ndim)]
    at = draw(st.integers(0, x.shape[axis]))
    shift = draw(st.integers(-2, 2))
    functions = [
        lambda x: tf.transpose(x, order),
        lambda x: tf.reshape(x, [x.shape[axis], -1]),
        lambda x: tf.pad(x, pads),
        lambda x: tf.pad(x, pads, constant_values=tf.reduce_sum(x)),
        lambda x: tf.pad(x, mirrored, "REFLECT"),
        lambda x: tf.pad(x, mirrored, "SYMMETRIC"),
        lambda x: tf.tile(x, times),
        lambda x: tf.concat([x, x * x, tf.ones_like(x)], axis),
        lambda x: tf.split(x, [at, x.shape[axis] - at], axis),
        lambda x: tf.stack([x, x * x], axis),
        lambda x: tf.unstack(x, axis=axis)[-1],
        lambda x: tf.reverse(x, [axis]),
        lambda x: tf.roll(x, shift, axis),
        lambda x: tf.broadcast_to(x, [2, *x.shape]),
        lambda x: tf.squeeze(tf.expand_dims(x, axis), [axis]),
    ]
    return draw(st.sampled_from(functions)), x


@st.composite
def choosing(draw):
    x = _values(draw(SEEDS), draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=4)))
    kind = draw(st.sampled_from(["slice", "gather", "batch", "nd", "scatter", "top", "where"]))
    if kind == "slice":
        index = draw(hnp.basic_indices(x.shape, allow_newaxis=True))
        hypothesis.assume(np.empty(x.shape)[index].size)
        return lambda x: x[index] * x[index], x
    axis = draw(st.integers(0, x.ndim - 1))
    shape = draw(hnp.array_shapes(max_dims=2, max_side=3))
    places = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, x.shape[axis] - 1)))
    if kind == "gather":
        return lambda x: tf.gather(x, places, axis=axis), x
    rows = draw(hnp.arrays(np.int32, [x.shape[0], 2], elements=st.integers(0, x.shape[1] - 1)))
    if kind == "batch":
        return lambda x: tf.gather(x, rows, axis=1, batch_dims=1), x
    if kind == "nd":
        where = np.stack([np.arange(x.shape[0]), rows[:, 0]], 1)
        return lambda x: tf.gather_nd(x, where), x
    if kind == "scatter":
        order = np.random.default_rng(rows.sum()).permutation(x.shape[0])[: x.shape[0] // 2 + 1]
        scatter = draw(
            st.sampled_from(
                [
                    tf.tensor_scatter_nd_add,
                    tf.tensor_scatter_nd_sub,
                    tf.tensor_scatter_nd_update,
                    lambda x, i, t: tf.scatter_nd(i, t, [x.shape[0] + 1, *x.shape[1:]]),
                ]
            )
        )
        return lambda x: scatter(x, order[:, None], tf.gather(x * x, order)), x
    if kind == "top":
        k = draw(st.integers(1, x.shape[-1]))
        return lambda x: tf.math.top_k(x, k).values, x
    mask = draw(hnp.arrays(bool, x.shape))
    return lambda x: [tf.where(mask, x, x * x), tf.boolean_mask(x, [True] * x.shape[0])], x


@st.composite
def softmaxes(draw):
    x = _values(draw(SEEDS), draw(SHAPES))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    function = draw(st.sampled_from([tf.nn.softmax, tf.nn.log_softmax]))
    return lambda x: function(x, axis=axis), x


@st.composite
def batch_normalizations(draw):
    seed, first = draw(SEEDS), draw(BOTH)
    sizes = [draw(st.integers(2, 3)) for _ in range(3)]
    channels = draw(st.integers(1, 3))
    shape = [sizes[0], channels, *sizes[1:]] if first else [*sizes, channels]
    settings = {"is_training": draw(BOTH), "data_format": "NCHW" if first else "NHWC"}
    point = [_values(seed, shape)] + [_values(seed + i, [channels], 0.5, 2) for i in range(4)]

    def normalize(p):
        return tf.raw_ops.FusedBatchNormV3(
            x=p[0], scale=p[1], offset=p[2], mean=p[3], variance=p[4], epsilon=0.01, **settings
        )[:3]

    return normalize, point


@st.composite
def resizings(draw):
    sizes = [draw(st.integers(1, 4)) for _ in "hw"]
    new = [draw(st.integers(1, 5)) for _ in "hw"]
    method = draw(st.sampled_from(["bilinear", "bicubic", "nearest"]))
    return lambda x: tf.image.resize(x, new, method), _values(draw(SEEDS), [1, *sizes, 2])


ONLY_FLOAT32 = (batch_normalizations, resizings)
FAMILIES = {
    family.__name__: family
    for family in (
        elementwise,
        broadcasting,
        reductions,
        cumulative,
        products,
        convolutions,
        transposed_convolutions,
        depthwise_convolutions,
        poolings,
        reshaping,
        choosing,
        softmaxes,
        batch_normalizations,
        resizings,
    )
}


def _run(name, examples, order):
    family = FAMILIES[name]
    single = SimpleNamespace(dtype=tf.float32, tolerance=3e-2)
    double = SimpleNamespace(dtype=tf.float64, tolerance=1e-6)

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(st.data())
    def check(data):
        function, point = data.draw(family(), label=name)
        precision = single if family in ONLY_FLOAT32 else double
        custom_op.check_rule(
            function, point, order=order, dtype=precision.dtype, tolerance=precision.tolerance
        )

    check()


@pytest.mark.parametrize("name", FAMILIES)
def test_property(name):
    _run(name, examples=6, order=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_property_to_second_order(name):
    _run(name, examples=30, order=2)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32])
def test_tangents_have_the_dtype_of_their_values(dtype):
    x = tf.constant(_values(0, (2, 4, 4, 2)), dtype)
    w = tf.constant(_values(1, (3, 3, 2, 2)), dtype)

    def network(p):
        h = tf.nn.gelu(tf.nn.conv2d(p[0], p[1], 1, "SAME"))
        h = tf.nn.max_pool2d(h, 2, 2, "VALID") / tf.sqrt(tf.reduce_mean(h * h) + 1)
        h = tf.pad(tf.transpose(h, [0, 3, 1, 2]), [[0, 0]] * 3 + [[0, 1]])
        return tf.nn.log_softmax(tf.reshape(tf.cumsum(h, 2), [2, -1]))

    linear = custom_op.linearize(network, (x, w))
    pushed = linear.jvp((x, w))
    pulled = linear.vjp(pushed)
    assert {value.dtype for value in (pushed, *pulled)} == {dtype}
    exact = custom_op.linearize(
        network, tuple(tf.cast(tf.cast(leaf, dtype), tf.float64) for leaf in (x, w))
    )
    reference = exact.jvp(tuple(tf.cast(leaf, tf.float64) for leaf in (x, w)))
    error = np.max(np.abs(tf.cast(pushed, tf.float64) - reference)) / np.max(np.abs(reference))
    assert error < 60 * float(np.finfo(dtype.as_numpy_dtype).eps) if dtype != tf.bfloat16 else 0.2
