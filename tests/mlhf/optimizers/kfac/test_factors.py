"""K-FAC's factors against blocks of the dense Gauss-Newton matrix and against sums in NumPy."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op import losses
from mlhf.optimizers.kfac import factors as factors_module
from mlhf.optimizers.kfac.blocks import blocks_of
from mlhf.optimizers.kfac.tracing import TracedNetwork

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


def factors(
    function, parameters, inputs, loss, fisher="exact", seed=(0, 0), jit_compile=False, targets=None
):
    """The factors of a batch; exact ones, or their mean over seeds."""
    blocks = blocks_of(parameters)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def compute(parameters, inputs, targets, seed):
        network = TracedNetwork(lambda p: (function(p, inputs), ()), parameters)
        layers = [network.layer(block) for block in blocks]
        outputs = network.outputs
        gradients = factors_module.output_gradients(loss, outputs, targets, fisher, seed)
        terms = factors_module.terms_of(loss, outputs)
        return factors_module.of_batch(network, blocks, layers, gradients, terms)[0]

    if targets is None:
        targets = tf.zeros([inputs.shape[0]], tf.int32)
    seeds = np.atleast_2d(seed)
    found = [compute(parameters, inputs, targets, tf.constant(s, tf.int32)) for s in seeds]
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


def test_a_dilated_convolutions_factors_are_those_of_its_patches():
    """TensorFlow convolves every so many pixels apart, with more padding than belongs to it."""
    x, parameters = normal(4, 7, 6, 2), {"k": normal(3, 2, 2, 3)}
    for padding in ("SAME", "VALID"):

        def convolve(x, kernel, padding=padding):
            return tf.nn.convolution(x, kernel, padding=padding, dilations=[2, 3])

        def network(p, x, convolve=convolve):
            return tf.reduce_mean(tf.tanh(convolve(x, p["k"])), [1, 2])

        a, g = factors(network, parameters, x, losses.get("squared_error"))["k"]
        # Patches by convolutions with kernels of a single 1.
        units = tf.reshape(tf.eye(12, dtype=x.dtype), [3, 2, 2, 12])
        rows = np.reshape(convolve(x, units), [-1, 12])
        np.testing.assert_allclose(a, rows.T @ rows / 4, rtol=1e-10, atol=1e-12)
        h = np.reshape(convolve(x, parameters["k"]), [-1, 3])
        slope = (1 - np.tanh(h) ** 2) / (len(h) / 4)
        np.testing.assert_allclose(g, np.diag((slope**2).mean(0)), rtol=1e-10, atol=1e-15)


def layer_normalization(p, x):
    mean = tf.reduce_mean(x, -1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(x - mean), -1, keepdims=True) + 0.1)
    scale = scale * tf.reshape(p["gamma"], [1, 1, -1])
    return x * scale + (tf.reshape(p["beta"], [1, 1, -1]) - mean * scale)


def in_groups(p, x):
    halves = tf.reshape(x, [*x.shape[:2], 2, 2]) * tf.reshape(p["gamma"], [1, 1, 2, 2])
    return tf.reshape(halves, x.shape) + p["beta"]


def of_places(p, x):
    return x * tf.reshape(p["gamma"], [1, -1, 1]) + tf.transpose(tf.zeros_like(x) + p["beta"],
                                                                [0, 2, 1])  # fmt: skip


def of_whole_images(p, x):
    x = tf.nn.bias_add(tf.reshape(x, [x.shape[0], 2, 2, 4]) * p["gamma"], p["beta"])
    return tf.reshape(x, [x.shape[0], 4, 4])


@pytest.mark.parametrize(
    "layer", [layer_normalization, in_groups, of_places, of_whole_images], ids=lambda f: f.__name__
)
def test_the_channels_of_a_vector_are_found_among_axes_of_equal_length(layer):
    parameters, loss = {"gamma": normal(4), "beta": normal(4)}, losses.get("mean_squared_error")
    x, mix = normal(4, 4, 4), normal(16, 2)

    def network(p, x):
        return tf.reshape(tf.tanh(layer(p, x)), [x.shape[0], 16]) @ mix

    found = factors(network, parameters, x, loss)
    for block in blocks_of(parameters):
        expected = dense_block(network, parameters, x, loss, normal(4, 2), block)
        np.testing.assert_allclose(found[block.name][1], expected, rtol=1e-10, atol=1e-13)


# What looks like a layer and is none: the parameter, the network, what is said of it.
NOT_LAYERS = {
    "a vector that a sum mixes": (
        {"v": normal(3)},
        lambda p, x: x + tf.cumsum(p["v"]),
        "'v' .* is not a scale or a shift",
    ),
    "rows that are no examples": (
        {"v": normal(4), "w": normal(4, 4)},
        lambda p, x: tf.reshape(tf.reshape(tf.tile(x, [1, 4])[:, :8], [-1, 4]) @ p["w"] + p["v"],
                                [-1, 8]),
        "'v' .* is not a scale or a shift",
    ),
    "a matrix as long as the batch": (
        {"v": normal(4)},
        lambda p, x: x @ (tf.ones([3, 4], x.dtype) * p["v"]),
        "'v' .* is not a scale or a shift",
    ),
    "a product of matrices": (
        {"w": normal(3, 4)},
        lambda p, x: x @ (tf.ones([3, 3], x.dtype) @ p["w"]),
        "'w' .* is applied to what is not a batch",
    ),
    "a kernel turned round": (
        {"w": normal(4, 3)},
        lambda p, x: x @ tf.reshape(p["w"], [3, 4]),
        "'w' .* is reshaped to .3, 4.",
    ),
    "outputs with and without the bias": (
        {"kernel": normal(3, 2), "bias": normal(2)},
        lambda p, x: (lambda h: tf.tanh(h + p["bias"]) + h)(x @ p["kernel"]),
        "'kernel' .* with a bias that is not added to its outputs alone",
    ),
    "a bias along another axis": (
        {"kernel": normal(3, 3), "bias": normal(3)},
        lambda p, x: x @ p["kernel"] + tf.reshape(p["bias"], [3, 1]),
        "'kernel' .* with a bias that is not added to its outputs alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_LAYERS)
def test_what_is_no_layer_is_refused_and_not_taken_for_one(case):
    parameters, network, message = NOT_LAYERS[case]
    with pytest.raises(ValueError, match=message):
        factors(network, parameters, normal(3, 3), losses.get("mean_squared_error"))


def test_a_dense_layer_on_sequences_has_its_bias():
    def network(p, x):
        h = tf.reshape(tf.reshape(x, [-1, 3]) @ p["kernel"], [*x.shape[:2], 4]) + p["bias"]
        return tf.reduce_sum(tf.tanh(h), [1, 2], keepdims=True)[:, 0]

    parameters, loss = {"kernel": normal(3, 4), "bias": normal(4)}, losses.get("squared_error")
    x = normal(1, 1, 3)
    (block,) = blocks_of(parameters)
    expected = dense_block(network, parameters, x, loss, tf.zeros([1, 1], tf.float64), block)
    a, g = factors(network, parameters, x, loss)["kernel"]
    np.testing.assert_allclose(np.kron(a, g), expected, rtol=1e-10, atol=1e-13)


def test_a_targets_mass_counts():
    loss, x = losses.get("softmax_cross_entropy"), normal(1, 3)
    targets = tf.constant([[0.5, 2.0]], tf.float64)
    (block, _) = blocks_of(MLP)
    expected = dense_block(mlp, MLP, x, loss, targets, block)
    a, g = factors(mlp, MLP, x, loss, targets=targets)[block.name]
    np.testing.assert_allclose(np.kron(a, g), expected, rtol=1e-10, atol=1e-13)
    plain = factors(mlp, MLP, x, loss, "sampled")[block.name][1]
    drawn = factors(mlp, MLP, x, loss, "sampled", targets=targets)[block.name][1]
    np.testing.assert_allclose(drawn, 2.5 * plain, rtol=1e-10)


class Sharper(losses.SoftmaxCrossEntropy):
    """With logits three times as large."""

    def term_gradients(self, outputs, targets):
        return 3 * super().term_gradients(3 * outputs, targets)

    def sample(self, outputs, seed):
        return super().sample(3 * outputs, seed)


def test_a_loss_of_ones_own_says_itself_what_it_draws():
    x = normal(2, 3)

    def sharp(p, x):
        return 3 * mlp(p, x)

    expected = factors(sharp, MLP, x, losses.get("softmax_cross_entropy"), "sampled", (3, 4))
    found = factors(mlp, MLP, x, Sharper(), "sampled", (3, 4))
    np.testing.assert_allclose(found["one/kernel"][1], expected["one/kernel"][1], rtol=1e-10)
    with pytest.raises(ValueError, match='got Sharper with fisher="exact": take fisher="sampled"'):
        factors(mlp, MLP, x, Sharper())


def test_counts_are_drawn_too():
    x, loss = normal(2, 3), losses.get("poisson")
    drawn = factors(mlp, MLP, x, loss, "sampled", [(1, k) for k in range(600)])["two/kernel"]
    # At the outputs themselves: 1/B Σ diag(eᶻ) / 2.
    expected = np.diag(np.exp(mlp(MLP, x)).mean(0)) / 2
    np.testing.assert_allclose(drawn[1], expected, atol=0.15 * expected.max())


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
