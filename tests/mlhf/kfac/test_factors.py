"""K-FAC's factors against blocks of the dense Gauss-Newton matrix and against sums in NumPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op import losses
from mlhf.kfac import factors as factors_module
from mlhf.kfac.blocks import blocks_of
from mlhf.kfac.tracing import TracedNetwork

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return tf.constant(RANDOM.normal(size=shape))


def mlp(parameters, inputs):
    one, two = parameters["one"], parameters["two"]
    return tf.tanh(inputs @ one["kernel"] + one["bias"]) @ two["kernel"] + two["bias"]


MLP = {
    "one": {"kernel": normal(3, 4), "bias": normal(4)},
    "two": {"kernel": normal(4, 2), "bias": normal(2)},
}


def convolution(parameters, inputs):
    x = tf.nn.conv2d(inputs, parameters["conv"]["kernel"], 2, "SAME")
    x = tf.tanh(tf.nn.bias_add(x, parameters["conv"]["bias"]))
    return tf.reduce_mean(x, [1, 2]) @ parameters["head"]


CONVOLUTION = {
    "conv": {"kernel": normal(3, 3, 2, 3), "bias": normal(3)},
    "head": normal(3, 2),
}


def channels(parameters, inputs):
    x = inputs * parameters["gamma"] + tf.reshape(parameters["beta"], [1, 1, 1, -1])
    return tf.reduce_mean(tf.tanh(x), [1, 2]) @ parameters["head"]


CHANNELS = {"gamma": normal(3), "beta": normal(3), "head": normal(3, 2)}


def factors(function, parameters, inputs, loss, fisher="exact", seed=(0, 0), jit_compile=False):
    """The factors of a batch, and the inputs and output gradients that they are made of."""
    blocks = blocks_of(parameters)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def compute(parameters, inputs, seed):
        network = TracedNetwork(lambda p: (function(p, inputs), ()), parameters)
        layers = [network.layer(block) for block in blocks]
        gradients = factors_module.output_gradients(loss, network.outputs, fisher, seed)
        rows = network.outputs.shape[0]
        found = factors_module.of_batch(network, blocks, layers, gradients, rows)
        return found

    seeds = np.atleast_2d(seed)
    found = [compute(parameters, inputs, tf.constant(s, tf.int32)) for s in seeds]
    return tf.nest.map_structure(lambda *v: np.mean(v, 0), *found) if len(found) > 1 else found[0]


def dense_block(function, parameters, inputs, loss, targets, block):
    """The block of the Gauss-Newton matrix of the mean loss, in the order of V's rows."""
    operator = custom_op.gauss_newton(lambda p: function(p, inputs), parameters, loss, targets)
    sizes = [int(np.prod(leaf.shape)) for leaf in tf.nest.flatten(parameters)]
    starts = np.cumsum([0, *sizes])
    leaves = [block.weight] if block.bias is None else [block.weight, block.bias]
    chosen = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in leaves])
    return operator.to_dense().numpy()[np.ix_(chosen, chosen)]


LOSSES = {
    "softmax_cross_entropy": np.array([1]),
    "sigmoid_cross_entropy": np.array([[1.0, 0.0]]),
    "squared_error": np.zeros([1, 2]),
    "mean_squared_error": np.zeros([1, 2]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_for_one_example_a_dense_layers_block_is_exact(name):
    loss, x = losses.get(name), normal(1, 3)
    found = factors(mlp, MLP, x, loss)
    for block in blocks_of(MLP):
        expected = dense_block(mlp, MLP, x, loss, tf.constant(LOSSES[name]), block)
        a, g = found[block.name]
        np.testing.assert_allclose(np.kron(a, g), expected, rtol=1e-10, atol=1e-13)


def test_for_one_place_a_convolutions_block_is_exact():
    loss, x = losses.get("softmax_cross_entropy"), normal(1, 2, 2, 2)
    found = factors(convolution, CONVOLUTION, x, loss)
    (block,) = [block for block in blocks_of(CONVOLUTION) if block.bias is not None]
    expected = dense_block(convolution, CONVOLUTION, x, loss, tf.constant([1]), block)
    a, g = found[block.name]
    assert np.any(a[:2] == 0)  # padding is part of it
    np.testing.assert_allclose(np.kron(a, g), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "mean_squared_error"])
def test_blocks_of_scales_and_shifts_are_exact_for_any_batch(name):
    loss, x = losses.get(name), normal(5, 2, 2, 3)
    targets = tf.constant([0, 1, 0, 1, 1]) if name.startswith("soft") else normal(5, 2)
    found = factors(channels, CHANNELS, x, loss)
    for block in blocks_of(CHANNELS):
        if not block.is_kernel:
            a, g = found[block.name]
            expected = dense_block(channels, CHANNELS, x, loss, targets, block)
            np.testing.assert_array_equal(a, [[1]])
            np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-13)


def test_a_batch_through_a_convolution_by_loops_in_numpy():
    x = normal(4, 5, 5, 2)
    found = factors(convolution, CONVOLUTION, x, losses.get("softmax_cross_entropy"))
    kernel, bias = (CONVOLUTION["conv"][name].numpy() for name in ("kernel", "bias"))
    head = CONVOLUTION["head"].numpy()
    # 5 x 5 with stride 2 and "SAME": 3 x 3 places, padded by 1.
    padded = np.pad(x.numpy(), [(0, 0), (1, 1), (1, 1), (0, 0)])
    a, g = np.zeros([19, 19]), np.zeros([3, 3])
    for image in padded:
        rows = [
            np.append(image[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].ravel(), 1)
            for i, j in itertools.product(range(3), repeat=2)
        ]
        before = np.array(rows) @ np.vstack([kernel.reshape(18, 3), bias])
        z = np.tanh(before).mean(0) @ head
        p = np.exp(z) / np.exp(z).sum()
        for row, place in zip(rows, before, strict=True):
            a += np.outer(row, row) / 4
            for k in range(2):
                gradient = (1 - np.tanh(place) ** 2) / 9 * (head @ (p - np.eye(2)[k]))
                g += p[k] * np.outer(gradient, gradient) / (4 * 9)
    np.testing.assert_allclose(found["conv/kernel"][0], a, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["conv/kernel"][1], g, rtol=1e-10, atol=1e-15)


def test_channels_may_stand_first():
    def network(parameters, inputs, first):
        form = {"data_format": "NCHW" if first else "NHWC"}
        shape = [1, -1, 1, 1] if first else [1, 1, 1, -1]
        x = tf.nn.conv2d(inputs, parameters["conv"]["kernel"], 2, "SAME", **form)
        x = tf.nn.bias_add(x, parameters["conv"]["bias"], **form)
        # As many channels as an image is wide.
        x = x * tf.reshape(parameters["gamma"], shape) + tf.reshape(parameters["beta"], shape)
        return tf.reduce_mean(tf.tanh(x), [2, 3] if first else [1, 2]) @ parameters["head"]

    parameters = {**CONVOLUTION, "gamma": normal(3), "beta": normal(3)}
    loss, x = losses.get("softmax_cross_entropy"), normal(4, 5, 5, 2)
    last = factors(lambda p, x: network(p, x, False), parameters, x, loss)
    # A CPU convolves channels-first images under XLA only.
    x = tf.transpose(x, [0, 3, 1, 2])
    first = factors(lambda p, x: network(p, x, True), parameters, x, loss, jit_compile=True)
    assert set(first) == {"conv/kernel", "gamma", "beta", "head"}
    for block in last:
        for a, b in zip(first[block], last[block], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_drawn_targets_give_the_exact_factors_on_average(name):
    loss, x = losses.get(name), normal(2, 3)
    exact = factors(mlp, MLP, x, loss)
    drawn = factors(mlp, MLP, x, loss, "sampled", [(1, k) for k in range(600)])
    for block in exact:
        scale = np.abs(exact[block][1]).max()
        np.testing.assert_allclose(drawn[block][1], exact[block][1], atol=0.15 * scale)
        np.testing.assert_allclose(drawn[block][0], exact[block][0], rtol=1e-10)


def test_the_solve_is_that_of_the_damped_kronecker_product():
    blocks = blocks_of({**MLP, "gamma": normal(3)})
    random = np.random.default_rng(1)
    found, gradient = {}, [normal(4), normal(3, 4), normal(3), normal(2), normal(4, 2)]
    # tf.nest's order: gamma, one/bias, one/kernel, two/bias, two/kernel.
    gradient = [normal(3), normal(4), normal(3, 4), normal(2), normal(4, 2)]
    for block in blocks:
        roots = [random.normal(size=(side, side + 1)) for side in block.sides]
        a, g = (root @ root.T for root in roots)
        found[block.name] = (np.ones([1, 1]) if not block.is_kernel else a), g
    damping = 0.3
    tensors = tf.nest.map_structure(tf.constant, found)
    inverted = factors_module.inverses(blocks, tensors, tf.constant(damping, tf.float64))
    solved = factors_module.solve(blocks, inverted, gradient)
    for block in blocks:
        a, g = found[block.name]
        if block.is_kernel:
            pi = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
            a = a + pi * np.sqrt(damping) * np.eye(len(a))
            g = g + np.sqrt(damping) / pi * np.eye(len(g))
        else:
            g = g + damping * np.eye(len(g))
        expected = np.linalg.solve(np.kron(a, g), block.gather(gradient).numpy().ravel())
        np.testing.assert_allclose(block.gather(solved).numpy().ravel(), expected, rtol=1e-9)
