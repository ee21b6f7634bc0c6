"""Rules of maximum pooling, by mask and by places, ties included."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op

_random = np.random.default_rng(4)
IMAGES = _random.normal(size=(2, 4, 6, 2))


EXPLICIT = [[0, 0], [1, 0], [0, 2], [0, 0]]


def _pools(x):
    return {
        "tiles": tf.nn.max_pool2d(x, 2, 2, "SAME"),
        "overlapping": tf.nn.max_pool2d(x, 3, 2, "SAME"),
        "every_pixel": tf.nn.max_pool2d(x, 3, 1, "SAME"),
    }


def _geometries(x):
    return {
        "tiles_valid_rest": tf.nn.max_pool2d(x, [3, 2], [3, 2], "VALID"),
        "hanging_over": tf.nn.max_pool2d(x, 4, 4, "SAME"),
        "one_window": tf.nn.max_pool2d(x, [4, 6], [4, 6], "VALID"),
        "larger_than_the_image": tf.nn.max_pool2d(x, 9, 1, "SAME"),
        "gaps": tf.nn.max_pool2d(x, 1, 3, "VALID"),
        "explicit": tf.nn.max_pool2d(x, [2, 3], 1, EXPLICIT),
        "explicit_tiles": tf.nn.max_pool2d(x, 2, 2, [[0, 0], [1, 1], [0, 0], [0, 0]]),
        "sizes_as_tensors": tf.raw_ops.MaxPoolV2(
            input=x, ksize=[1, 3, 2, 1], strides=[1, 1, 1, 1], padding="SAME"
        ),
        "channels": tf.raw_ops.MaxPool(
            input=x, ksize=[1, 1, 1, 2], strides=[1, 1, 1, 2], padding="VALID"
        ),
    }


def _gradients(x):
    pooled = tf.nn.max_pool2d(x, 2, 1, "SAME")
    settings = {"ksize": [1, 2, 2, 1], "strides": [1, 1, 1, 1], "padding": "SAME"}
    point = {"orig_input": x, "orig_output": pooled}
    places = tf.nn.max_pool_with_argmax(x, 2, 1, "SAME")
    # Fewer windows than pixels: TensorFlow's own kernel has to give the value here.
    fewer = {"ksize": [1, 3, 3, 1], "strides": [1, 2, 2, 1], "padding": "SAME"}
    second = {"orig_input": x, "orig_output": tf.nn.max_pool2d(x, 3, 2, "SAME"), "grad": x**2}
    return {
        "gradient": tf.raw_ops.MaxPoolGrad(grad=pooled**2, **point, **settings),
        "second": tf.raw_ops.MaxPoolGradGrad(**second, **fewer),
        "gradient_of_v2": tf.raw_ops.MaxPoolGradV2(grad=pooled**2, **point, **settings),
        "second_of_v2": tf.raw_ops.MaxPoolGradGradV2(**second, **fewer),
        "explicit": tf.raw_ops.MaxPoolGrad(
            orig_input=x,
            orig_output=tf.nn.max_pool2d(x, 3, 1, EXPLICIT),
            grad=tf.nn.max_pool2d(x, 3, 1, EXPLICIT) ** 2,
            ksize=[1, 3, 3, 1],
            strides=[1, 1, 1, 1],
            padding="EXPLICIT",
            explicit_paddings=np.reshape(EXPLICIT, -1).tolist(),
        ),
        "by_places": tf.raw_ops.MaxPoolGradWithArgmax(
            input=x, grad=places.output**2, argmax=places.argmax, **settings
        ),
    }


CASES = {
    "pools": (_pools, IMAGES),
    "geometries": (_geometries, IMAGES, {"order": 1}),
    "gradients": (_gradients, IMAGES, {"order": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_rule(case):
    function, inputs, *settings = CASES[case]
    custom_op.check_rule(function, inputs, **dict(*settings))


def _places(x, size, stride):
    """Where the first maximum of each window lies, by a loop; SAME."""
    found = np.empty((x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), x.shape[3]))
    numbers = np.arange(x.size).reshape(x.shape)
    starts = []
    for n in x.shape[1:3]:
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        starts.append([i * stride - total // 2 for i in range(-(-n // stride))])
    for b, i, j, c in np.ndindex(found.shape):
        rows, columns = (
            slice(max(s[k], 0), s[k] + size) for s, k in zip(starts, (i, j), strict=True)
        )
        window = x[b, rows, columns, c]
        found[b, i, j, c] = numbers[b, rows, columns, c].reshape(-1)[window.argmax()]
    return found.astype(int)


def _once(z):
    return tf.nn.max_pool2d(tf.tanh(z), 3, 1, "SAME")


def _twice(z):
    pooled = _once(z)
    return tf.nn.max_pool2d(tf.tanh(z), 3, 1, "SAME") * 0.25 + 0.75 * pooled


def _in_a_loop(z):
    def body(i, y):
        return i + 1, tf.nn.max_pool2d(tf.tanh(z) + 0 * y, 3, 1, "SAME")

    return tf.while_loop(lambda i, y: i < 2, body, (0, z), maximum_iterations=2)[1]


PLACES_IN_A_PROGRAM = {
    "once": _once,
    "twice": _twice,
    "in_a_branch": lambda z: tf.cond(z[0, 0, 0, 0] < 9, lambda: _once(z), lambda: z),
    "in_a_loop": _in_a_loop,
    "in_a_call": tf.function(_once, autograph=False),
}


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_behind_an_operation(jit):
    """TensorFlow's kernel would write over a tangent that nobody else holds: zeros."""
    v, u = (_random.normal(size=IMAGES.shape) for _ in range(2))
    x, v_given = tf.constant(IMAGES), tf.constant(v)

    def loss(y):
        return tf.reduce_sum(u * tf.sin(y))

    def slope(function, z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(function(z))
        return tape.gradient(value, z)

    @tf.function(autograph=False, jit_compile=jit)
    def run(x, v):
        results = {}
        for name, function in PLACES_IN_A_PROGRAM.items():
            linear = custom_op.linearize(function, x)
            results[name] = [linear.jvp(v), linear.vjp(tf.constant(u))]
            if name in ("once", "in_a_loop"):
                results[name].append(custom_op.jvp(lambda z, f=function: slope(f, z), x, v)[1])
        with tf.GradientTape() as tape:
            tape.watch(x)
            along = tf.reduce_sum(slope(_once, x) * v)
        results["once"].append(tape.gradient(along, x))
        return results

    t = np.tanh(IMAGES)
    bend = 1 - t**2
    places = _places(t, 3, 1)
    pooled, pushed = (values.reshape(-1)[places] for values in (t, bend * v))
    pulled, back, curved = (np.zeros(t.size) for _ in range(3))
    np.add.at(pulled, places, u)
    np.add.at(back, places, u * np.cos(pooled))
    np.add.at(curved, places, -u * np.sin(pooled) * pushed)
    expected = (
        pushed,
        bend * pulled.reshape(t.shape),
        *[bend * curved.reshape(t.shape) - 2 * t * bend * v * back.reshape(t.shape)] * 2,
    )
    for _ in range(1 if jit else 5):
        for name, got in run(x, v_given).items():
            for a, b in zip(got, expected, strict=False):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10, err_msg=name)
    if not jit:
        np.testing.assert_allclose(custom_op.jvp(_once, x, v_given)[1], pushed, rtol=1e-10)


def test_unknown_sizes():
    """A batch and images of unknown sizes, in float32 too, as a tape and as R-forward see them."""
    specs = [tf.TensorSpec([None, None, None, 2], tf.float32)] * 2

    @tf.function(autograph=False, input_signature=specs)
    def run(x, v):
        pushed = custom_op.jvp(lambda z: tf.nn.max_pool2d(2 * z, 3, 2, "SAME"), x, v)[1]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = tf.reduce_sum(tf.nn.max_pool2d(2 * x, 3, 2, "SAME") ** 2)
            along = tf.reduce_sum(tape.gradient(value, x) * v)
        return pushed, outer.gradient(along, x)

    x = _random.normal(size=(2, 5, 7, 2)).astype("f4")
    v = _random.normal(size=x.shape).astype("f4")
    pushed, curved = run(x, v)
    places = _places(x, 3, 2)
    np.testing.assert_allclose(pushed, 2 * v.reshape(-1)[places], rtol=1e-6)
    expected = np.zeros(x.size)
    np.add.at(expected, places, 8 * v.reshape(-1)[places])
    np.testing.assert_allclose(curved, expected.reshape(x.shape), rtol=1e-6, atol=1e-6)


def test_sizes_that_are_not_known_are_refused():
    @tf.function(autograph=False)
    def run(x, sizes):
        def pool(x):
            return tf.raw_ops.MaxPoolV2(input=x, ksize=sizes, strides=[1, 1, 1, 1], padding="SAME")

        return custom_op.jvp(pool, x, x)[1]

    with pytest.raises(custom_op.NotDifferentiableError, match="windows are not known"):
        run(tf.constant(IMAGES), tf.constant([1, 2, 2, 1]))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2)])
def test_ties_as_tensorflow(size, stride, jit):
    x = tf.constant(_random.integers(0, 2, size=(2, 8, 8, 3)), tf.float32)
    u = tf.constant(_random.normal(size=(2, 4, 4, 3)), tf.float32)

    def pool(x):
        return tf.nn.max_pool2d(x, size, stride, "SAME")

    @tf.function(autograph=False, jit_compile=jit)
    def run(x):
        linear = custom_op.linearize(pool, x)
        pulled = linear.vjp(u)
        return pulled, tf.reduce_sum(u * linear.jvp(pulled))

    pulled, product = run(x)
    # Of TensorFlow's own kernel: XLA takes another of equal values where there is padding.
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = pool(x)
    expected = tape.gradient(y, x, u)
    np.testing.assert_allclose(pulled, expected, atol=1e-6)
    np.testing.assert_allclose(product, tf.reduce_sum(pulled**2), rtol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_dtypes(dtype):
    x = tf.cast(IMAGES, dtype)
    y, tangent = custom_op.jvp(lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), x, x)
    assert tangent.dtype == dtype
    # Homogeneous of degree one: J x = y.
    np.testing.assert_allclose(tf.cast(tangent, tf.float32), tf.cast(y, tf.float32), rtol=1e-2)
