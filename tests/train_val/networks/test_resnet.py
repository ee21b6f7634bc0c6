"""The ResNets against a transcription of the original's definition in TensorFlow's own ops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from custom_op.rules import kernels
from mlhf.kinds import kind_of_path
from train_val.networks import resnet


class Reference:
    """The original's functions, on the weights of a model in the order of the calls."""

    def __init__(self, model):
        names = [layer.name for layer in model.layers]
        self.kernels = {
            name: model.get_layer(name).get_weights() for name in names if name.endswith("conv")
        }
        self.norms = {
            name: model.get_layer(name).get_weights() for name in names if name.endswith("norm")
        }
        self.dense = model.get_layer("final_dense").get_weights()

    def norm_relu(self, x, name):
        gamma, beta, mean, variance = self.norms.pop(name)
        return tf.nn.relu((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta)

    def convolve(self, x, name, strides):
        (kernel,) = self.kernels.pop(name)
        if strides == 1:
            return tf.nn.conv2d(x, kernel, 1, "SAME")
        total = kernel.shape[0] - 1
        pads = [total // 2, total - total // 2]
        return tf.nn.conv2d(tf.pad(x, [[0, 0], pads, pads, [0, 0]]), kernel, strides, "VALID")

    def building_block(self, x, strides, project, name):
        shortcut = x
        x = self.norm_relu(x, f"{name}1_norm")
        if project:
            shortcut = self.convolve(x, f"{name}shortcut_conv", strides)
        x = self.convolve(x, f"{name}1_conv", strides)
        x = self.norm_relu(x, f"{name}2_norm")
        return self.convolve(x, f"{name}2_conv", 1) + shortcut

    def bottleneck_block(self, x, strides, project, name):
        shortcut = x
        x = self.norm_relu(x, f"{name}1_norm")
        if project:
            shortcut = self.convolve(x, f"{name}shortcut_conv", strides)
        x = self.convolve(x, f"{name}1_conv", 1)
        x = self.norm_relu(x, f"{name}2_norm")
        x = self.convolve(x, f"{name}2_conv", strides)
        x = self.norm_relu(x, f"{name}3_norm")
        return self.convolve(x, f"{name}3_conv", 1) + shortcut

    def __call__(self, x, block, stages, photographs):
        x = self.convolve(x, "initial_conv", 2 if photographs else 1)
        if photographs:
            x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        for stage, blocks in enumerate(stages):
            for number in range(blocks):
                strides = 2 if stage and not number else 1
                x = block(self, x, strides, not number, f"stage{stage + 1}_block{number + 1}_")
        x = tf.reduce_mean(self.norm_relu(x, "final_norm"), [1, 2])
        assert not self.kernels and not self.norms
        return x @ self.dense[0] + self.dense[1]


def randomize(model):
    """Gives a model weights at which no layer is an identity."""
    random = np.random.default_rng(1)
    model.set_weights([w + 0.3 * random.random(w.shape) for w in model.get_weights()])


@pytest.mark.parametrize(
    "build, size, block, stages",
    [
        (resnet.cifar_resnet, 14, Reference.building_block, (2, 2, 2)),
        (resnet.imagenet_resnet, 18, Reference.building_block, (2, 2, 2, 2)),
        (resnet.imagenet_resnet, 50, Reference.bottleneck_block, (3, 4, 6, 3)),
    ],
)
def test_the_network_is_the_originals(build, size, block, stages):
    model = build((21, 32, 3), 4, resnet_size=size)
    randomize(model)
    x = np.random.default_rng(0).normal(size=(2, 21, 32, 3)).astype("f")
    expected = Reference(model)(x, block, stages, build is resnet.imagenet_resnet)
    np.testing.assert_allclose(model(x, training=False), expected, rtol=2e-4)


def test_sizes_of_the_papers():
    def trained(model):
        return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)

    # 3·3·3·16 + 3 stages of 3 blocks + 1x1 shortcuts + normalisation + 64·10 + 10.
    assert trained(resnet.cifar_resnet((32, 32, 3), 10, resnet_size=20)) == 272_538
    kernels = sum(
        variable.path.endswith("conv/kernel") and "shortcut" not in variable.path
        for variable in resnet.cifar_resnet((32, 32, 3), 10).trainable_variables
    )
    assert kernels == 31  # and the dense layer: 32


def test_initial_weights():
    first, again, other = (
        resnet.cifar_resnet((8, 8, 3), 10, resnet_size=8, seed=seed) for seed in (1, 1, 2)
    )
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(first.trainable_variables, other.trainable_variables, strict=True):
        if a.path.endswith("kernel"):
            assert np.any(a.numpy() != b.numpy())
            fan_in = np.prod(a.shape[:-1])
            if "conv" in a.path:  # variance scaling; the dense layer is Glorot's
                assert a.numpy().std() == pytest.approx(
                    fan_in**-0.5, rel=4 / np.prod(a.shape) ** 0.5
                )
    kernels = [v.numpy().ravel()[:5] for v in first.trainable_variables if "kernel" in v.path]
    assert len({tuple(kernel) for kernel in kernels}) == len(kernels)


def test_kinds_are_known_by_layers_and_by_paths():
    model = resnet.imagenet_resnet((32, 32, 3), 5)
    kinds = mlhf.kinds_of_model(model)
    assert set(kinds) == {variable.path for variable in model.trainable_variables}
    assert set(kinds.values()) == {
        "conv_kernel", "norm_gamma", "norm_beta", "dense_kernel", "dense_bias"
    }  # fmt: skip
    assert {path: kind_of_path(path) for path in kinds} == kinds


def test_a_size_counts_its_layers():
    assert sorted(resnet.IMAGENET_SIZES) == [18, 34, 50, 101, 152]
    for size, (bottleneck, blocks) in resnet.IMAGENET_SIZES.items():
        # The convolutions of the blocks, the first one, and the dense layer.
        assert size == (3 if bottleneck else 2) * sum(blocks) + 2


@pytest.mark.onednn
@pytest.mark.parametrize("build", [resnet.cifar_resnet, resnet.imagenet_resnet])
def test_channels_may_stand_first(build):
    settings = {"resnet_size": 8} if build is resnet.cifar_resnet else {}
    last = build((16, 16, 3), 4, **settings)
    first = build((3, 16, 16), 4, data_format="channels_first", **settings)
    randomize(last)
    first.set_weights(last.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("f")
    # On a CPU only oneDNN and XLA have the kernels.
    run = tf.function(first, jit_compile=not kernels.has_onednn())
    np.testing.assert_allclose(run(np.moveaxis(x, -1, 1)), last(x), rtol=1e-4)


def test_a_model_is_saved_and_loaded_by_keras(tmp_path):
    model = resnet.cifar_resnet((8, 8, 3), 4, resnet_size=8)
    randomize(model)
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("f")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize(
    "build, settings, message",
    [
        (resnet.cifar_resnet, {"resnet_size": 18}, r"6n \+ 2 .* got 18; \[18, 34, 50, 101, 152\]"),
        (resnet.cifar_resnet, {"resnet_size": 2}, "got 2"),
        (resnet.imagenet_resnet, {"resnet_size": 20}, r"one of \[18, 34, 50, 101, 152\].* got 20"),
        (resnet.cifar_resnet, {"data_format": "rows"}, "Expected data_format .* got 'rows'"),
    ],
)
def test_what_makes_no_sense_is_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build((8, 8, 3), 10, **settings)
