"""TensorFlow's gradients that are replaced: tapes agree with the same functions written plainly."""

import math

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(31)
# One, two and no zeros in a row.
FACTORS = np.array([[0.5, 0.0, -1.5, 2.0], [0.0, 1.2, 0.0, -0.7], [1.1, -0.4, 0.3, 0.9]])
LABELS = np.array([[0.3, 0.9, 0.4, 0.0], [1.0, -2.0, 0.5, 0.25], [0.0, 0.0, 0.0, 0.0]])
V = _random.normal(size=(4, 3, 4))

MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "xla": lambda function: tf.function(function, autograph=False, jit_compile=True),
    "unknown sizes": lambda function: tf.function(
        function, autograph=False, input_signature=[tf.TensorSpec([None, None], tf.float64)]
    ),
}


def _scan(one, combine):
    def scan(x, axis=0, exclusive=False, reverse=False):
        rows = tf.unstack(x, num=(3, 4)[axis], axis=axis)
        rows = rows[::-1] if reverse else rows
        results = [tf.fill(tf.shape(rows[0]), tf.constant(one, x.dtype)), rows[0]]
        for row in rows[1:]:
            results.append(combine(results[-1], row))
        results = results[:-1] if exclusive else results[1:]
        return tf.stack(results[::-1] if reverse else results, axis)

    return scan


plain_product = _scan(1.0, lambda a, b: a * b)
plain_log_sum_exp = _scan(tf.float64.min, lambda a, b: tf.reduce_logsumexp(tf.stack([a, b]), 0))


def plain_cross_entropy(labels, logits):
    return -tf.reduce_sum(labels * tf.nn.log_softmax(logits), -1)


def _bessel(sign):
    def bessel(x):
        series = tf.zeros_like(x)
        for k in range(20, -1, -1):  # by Horner's rule; powers of zero have no second derivative
            series = sign * series * (x * x) / 4 + 1 / (math.factorial(k) * math.factorial(k + 1))
        return x / 2 * series

    return bessel


def plain_spence(x):
    series = tf.zeros_like(x)
    for k in range(60, 0, -1):
        series = ((-1) ** k / k**2 + series) * (x - 1)
    return series


cross_entropy = tf.nn.softmax_cross_entropy_with_logits
scans = [
    {"axis": 1},
    {"axis": 0, "reverse": True},
    {"axis": 1, "exclusive": True},
    {"axis": 1, "exclusive": True, "reverse": True},
]
# What TensorFlow computes, the same in plain operations, and where.
CASES = {
    **{
        f"product {i}": (
            lambda x, s=s: tf.math.cumprod(x, **s),
            lambda x, s=s: plain_product(x, **s),
            FACTORS,
        )
        for i, s in enumerate(scans)
    },
    **{
        f"log-sum-exp {i}": (
            lambda x, s=s: tf.maximum(tf.math.cumulative_logsumexp(x, **s), -9),
            lambda x, s=s: tf.maximum(plain_log_sum_exp(x, **s), -9),
            FACTORS,
        )
        for i, s in enumerate(scans)
    },
    "product of all": (
        lambda x: tf.reduce_prod(x, 1),
        lambda x: plain_product(x, 1)[:, -1],
        FACTORS,
    ),
    "logits": (
        lambda z: cross_entropy(LABELS, z),
        lambda z: plain_cross_entropy(LABELS, z),
        FACTORS,
    ),
    "labels and logits": (
        lambda x: cross_entropy(x, tf.sin(x)),
        lambda x: plain_cross_entropy(x, tf.sin(x)),
        LABELS,
    ),
}

ZERO_FIRST = np.array([[0.0, 0.3, 0.0, -1.0], [0.5, 1.5, 0.7, 0.9], [0.0, 0.0, 0.1, 0.2]])
_pairs = lambda f: lambda x: f(x[::2], x[1] + 0.2)  # noqa: E731
CASES |= {
    "xlogy": (_pairs(tf.math.xlogy), _pairs(lambda x, y: x * tf.math.log(y)), ZERO_FIRST),
    "xlog1py": (_pairs(tf.math.xlog1py), _pairs(lambda x, y: x * tf.math.log(1 + y)), ZERO_FIRST),
    "xdivy": (_pairs(tf.math.xdivy), _pairs(lambda x, y: x / y), ZERO_FIRST),
    "bessel_i1": (
        tf.math.special.bessel_i1,
        _bessel(1),
        ZERO_FIRST,
    ),
    "bessel_j1": (
        tf.math.special.bessel_j1,
        _bessel(-1),
        ZERO_FIRST,
    ),
    "spence": (
        lambda x: tf.math.special.spence(1 + 0.2 * x),
        lambda x: plain_spence(1 + 0.2 * x),
        ZERO_FIRST,
    ),
    "norm": (
        lambda x: tf.math.reduce_euclidean_norm(x, 1),
        lambda x: tf.sqrt(tf.reduce_sum(x * x, 1)),
        FACTORS,
    ),
    "norm of columns": (
        lambda x: tf.math.reduce_euclidean_norm(x, [0, -1], keepdims=True),
        lambda x: tf.sqrt(tf.reduce_sum(x * x, [0, 1], keepdims=True)),
        FACTORS,
    ),
    "stitch": (
        lambda x: tf.dynamic_stitch([[0, 1], [1]], [x[:2], x[2:]]),
        lambda x: tf.stack([x[0], x[2]]),
        FACTORS,
    ),
}


def _slope(function, v):
    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tf.reduce_sum(v * tape.gradient(value, x))

    return slope


def _orders(function, count=3):
    def value(x):
        y = function(tf.sin(x) + x)
        weights = tf.constant(V[3])
        weights = weights[: tf.shape(y)[0]] if y.shape.rank == 2 else weights[:, 0]
        return tf.reduce_sum((y + y * y / 2) * weights)

    chain = [value]
    for v in V[:count]:
        chain.append(_slope(chain[-1], v))
    return lambda x: [f(x) for f in chain]


FEW = ["product 3", "log-sum-exp 1", "labels and logits"]


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        *[(case, "graph") for case in CASES],
        *[(case, mode) for mode in MODES if mode != "graph" for case in FEW],
        # XLA has no kernel of it.
        *[("norm", mode) for mode in ("eager", "unknown sizes")],
    ],
)
def test_tapes_to_third_order(case, mode):
    function, plainly, x = CASES[case]
    x = tf.constant(x)
    expected = _orders(plainly)(x)
    assert min(abs(value) for value in expected[1:]) > 1e-3
    np.testing.assert_allclose(MODES[mode](_orders(function))(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        *[
            (case, mode)
            for case in ("product 1", "product 2", "log-sum-exp 0", "labels and logits")
            for mode in ("graph", "xla")
        ],
        ("norm", "graph"),
    ],
)
def test_a_checkpoint_in_products(case, mode):
    """Jacobian-vector, vector-Jacobian and Hessian products through recomputation."""
    function, plainly, x = CASES[case]
    x, v = tf.constant(x), tf.constant(V[0])

    def products(function):
        def run(x):
            y, pushed = custom_op.jvp(function, x, v)
            u = tf.cos(y)
            gradient = lambda x: custom_op.linearize(function, x).vjp(u)  # noqa: E731
            return [pushed, gradient(x), custom_op.jvp(gradient, x, v)[1]]

        return run

    got = MODES[mode](products(custom_op.checkpoint(function)))(x)
    for value, wanted in zip(got, products(plainly)(x), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case != "stitch"])
def test_second_derivatives_where_cotangents_are_zero(case):
    """A loss that leaves examples out; a gradient is linear in its cotangents, at zero as well."""
    function, plainly, x = CASES[case]

    def products(function):
        def slope(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
                chosen = tf.one_hot(tf.size(y) - 1, tf.size(y), dtype=y.dtype)
                loss = tf.reduce_sum(tf.reshape(chosen, tf.shape(y)) * y)
            return tape.gradient(loss, x)

        with tf.GradientTape() as tape:
            tape.watch(X)
            along = tf.reduce_sum(V[0] * slope(X))
        return slope(X), tape.gradient(along, X), custom_op.jvp(slope, X, tf.constant(V[0]))[1]

    X = tf.constant(x)
    got, wanted = (tf.function(products, autograph=False)(f) for f in (function, plainly))
    for value, plain in zip(got, wanted, strict=True):
        np.testing.assert_allclose(value, plain, rtol=1e-10, atol=1e-12)


def test_norms_of_zero_have_the_slope_zero():
    x = tf.zeros([2, 3], tf.float64)
    function = lambda x: tf.math.reduce_euclidean_norm(x, 1)  # noqa: E731
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    np.testing.assert_array_equal(tape.gradient(y, x), x)
    np.testing.assert_array_equal(custom_op.jvp(function, x, tf.ones_like(x))[1], [0, 0])


def test_an_axis_that_is_computed():
    @tf.function(autograph=False)
    def run(x, axis):
        return [
            _orders(lambda x: tf.math.cumprod(x, axis, exclusive=True), 2)(x),
            _orders(lambda x: tf.math.cumulative_logsumexp(x, axis), 2)(x),
        ]

    x = tf.constant(FACTORS)
    for axis in (0, 1):
        expected = [
            _orders(lambda x, a=axis: plain_product(x, a, exclusive=True), 2)(x),
            _orders(lambda x, a=axis: plain_log_sum_exp(x, a), 2)(x),
        ]
        for given in [axis - 2] if axis else [0]:
            np.testing.assert_allclose(run(x, tf.constant(given)), expected, rtol=1e-10)


def test_single_precision_and_long_rows():
    x = _random.uniform(0.9, 1.1, size=[2, 1000])
    x[0, 10] = x[1, [3, 700]] = 0
    for function in (tf.math.cumprod, tf.math.cumulative_logsumexp):
        found = []
        for dtype in (tf.float32, tf.float64):
            values = tf.constant(x, dtype)
            with tf.GradientTape() as tape:
                tape.watch(values)
                result = function(values, axis=1)
            found.append(tape.gradient(result, values).numpy())
            assert found[-1].dtype == dtype
        np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)


def test_empty_and_masked_rows():
    for size in (0, 1):
        x = tf.ones([2, size], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.math.cumprod(x, 1, exclusive=True)
        np.testing.assert_array_equal(tape.gradient(y, x), np.zeros([2, size]))
    x = tf.constant([-np.inf, -np.inf, 1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.math.cumulative_logsumexp(x)[2:]
    share = 1 / (1 + np.e)
    np.testing.assert_allclose(tape.gradient(y, x), [0, 0, 1 + share, 1 - share], rtol=1e-6)


def test_complex_factors():
    x = tf.constant(FACTORS + 1j * V[0])

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(tf.abs(function(x) - V[1]) ** 2)
        return tape.gradient(value, x)

    expected = gradient(lambda x: plain_product(x, 1))
    np.testing.assert_allclose(gradient(lambda x: tf.math.cumprod(x, 1)), expected, rtol=1e-12)


def test_zero_times_the_logarithm_of_zero():
    x = tf.zeros([], tf.float64)
    for function, y in ((tf.math.xlogy, x), (tf.math.xlog1py, x - 1), (tf.math.xdivy, x)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x, y)
        assert tape.gradient(value, x) == 0
        assert custom_op.jvp(lambda x, f=function, y=y: f(x, y), x, x + 1)[1] == 0
