"""Kinds of variable: from paths, given, and from the layers of Keras models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.kinds import kind_of_path

PATHS = {
    "conv1/kernel": "conv_kernel",
    "conv1/bias": "conv_bias",
    "Conv_0/w": "conv_kernel",
    "conv2d_3/b": "conv_bias",
    "depthwise_conv/weights": "conv_kernel",
    "dense/kernel": "dense_kernel",
    "block1/Dense_2/bias": "dense_bias",
    "fc/weight": "dense_kernel",
    "logits/b": "dense_bias",
    "linear/w": "dense_kernel",
    "norm/gamma": "norm_gamma",
    "batch_norm_2/beta": "norm_beta",
    "bn1/scale": "norm_gamma",
    "conv1_bn/bias": "norm_beta",
    "LayerNorm_0/offset": "norm_beta",
    # What is nearest to the variable says what it is.
    "convnet/dense1/kernel": "dense_kernel",
    "conv_block/bn/bias": "norm_beta",
    "bn_free/conv/bias": "conv_bias",
    "conv1/inner/kernel": "conv_kernel",
    # No layer, an unknown layer, an unknown name, "bn" within a word.
    "w": None,
    "embedding/table": None,
    "conv1/alpha": None,
    "norm/kernel": None,
    "subnet/bias": None,
}


@pytest.mark.parametrize(("path", "kind"), PATHS.items())
def test_kind_of_path(path, kind):
    assert kind_of_path(path) == kind
    assert kind in (*mlhf.KINDS, None)


def zeros(*shape):
    return tf.zeros(shape)


def test_structures_in_the_order_of_their_leaves():
    parameters = [{"norm": {"gamma": zeros(2), "beta": zeros(2)}, "conv": {"w": zeros(1, 1, 2, 2)}}]
    assert mlhf.resolve_kinds(parameters) == ["conv_kernel", "norm_beta", "norm_gamma"]


def test_unknown_kind_is_an_error_with_path_and_shape():
    parameters = {"dense": {"kernel": zeros(2, 2)}, "embedding": {"table": zeros(7, 3)}}
    with pytest.raises(ValueError, match=r"'embedding/table' of shape \(7, 3\).*kinds="):
        mlhf.resolve_kinds(parameters)
    with pytest.raises(ValueError, match="embedding/table"):
        mlhf.MetaHessianFree().init(parameters)
    with pytest.raises(ValueError, match=r"of shape \(2,\) is not known"):
        mlhf.resolve_kinds(zeros(2))


def test_given_kinds():
    parameters = {"dense": {"kernel": zeros(2, 2)}, "embedding": (zeros(7, 3),)}
    wanted = ["dense_kernel", "table"]
    # By path for those that paths do not tell, for all of them, as a structure.
    assert mlhf.resolve_kinds(parameters, {"embedding/0": "table"}) == wanted
    by_path = {"embedding/0": "table", "dense/kernel": "dense_kernel"}
    assert mlhf.resolve_kinds(parameters, by_path) == wanted
    same = {"dense": {"kernel": "dense_kernel"}, "embedding": ("table",)}
    assert mlhf.resolve_kinds(parameters, same) == wanted
    # What is given counts more than the path, and one name serves all.
    other = {"embedding/0": "table", "dense/kernel": "mine"}
    assert mlhf.resolve_kinds(parameters, other) == ["mine", "table"]
    assert mlhf.resolve_kinds(parameters, "any") == ["any", "any"]
    assert mlhf.resolve_kinds([zeros(1), zeros(2)], ["a", "b"]) == ["a", "b"]


def test_given_kinds_that_do_not_fit():
    parameters = [zeros(1), zeros(2)]
    for kinds in (["a"], ["a", 1], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="each of the 2 parameters"):
            mlhf.resolve_kinds(parameters, kinds)
    # A mistyped key is told, even where the path says enough without it.
    for structure in (parameters, {"dense": {"kernel": zeros(2, 2)}}):
        with pytest.raises(ValueError, match=r"got \['dense/kernle'\]"):
            mlhf.resolve_kinds(structure, {"dense/kernle": "mine"})


def test_keras_layers():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, name="a"),
            layers.BatchNormalization(name="b"),
            layers.DepthwiseConv2D(2, name="c"),
            layers.SeparableConv2D(2, 2, name="d"),
            layers.GroupNormalization(1, name="e"),
            keras.Sequential([layers.Conv2DTranspose(2, 2, name="f")], name="inner"),
            layers.Flatten(),
            layers.LayerNormalization(name="g"),
            layers.Dense(3, name="h"),
            layers.Dropout(0.5),
            layers.EinsumDense("ab,bc->ac", 2, bias_axes="c", name="i"),
        ]
    )
    found = {
        "/".join(path.split("/")[-2:]): kind for path, kind in mlhf.kinds_of_model(model).items()
    }
    assert found == {
        "a/kernel": "conv_kernel",
        "a/bias": "conv_bias",
        "b/gamma": "norm_gamma",
        "b/beta": "norm_beta",
        "c/kernel": "conv_kernel",
        "c/bias": "conv_bias",
        "d/depthwise_kernel": "conv_kernel",
        "d/pointwise_kernel": "conv_kernel",
        "d/bias": "conv_bias",
        "e/gamma": "norm_gamma",
        "e/beta": "norm_beta",
        "f/kernel": "conv_kernel",
        "f/bias": "conv_bias",
        "g/gamma": "norm_gamma",
        "g/beta": "norm_beta",
        "h/kernel": "dense_kernel",
        "h/bias": "dense_bias",
        "i/kernel": "dense_kernel",
        "i/bias": "dense_bias",
    }
    assert set(mlhf.kinds_of_model(model)) == set(mlhf.get_parameters(model))
    optimizer = mlhf.MetaHessianFree()
    optimizer.init(model)
    assert optimizer.kinds == sorted(mlhf.KINDS)


def test_a_keras_layer_of_no_known_kind_is_an_error_until_its_kind_is_given():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Embedding(5, 3, name="words")])
    assert mlhf.kinds_of_model(model) == {}
    with pytest.raises(ValueError, match=r"words/embeddings' of shape \(5, 3\)"):
        mlhf.MetaHessianFree().init(model)
    (path,) = mlhf.get_parameters(model)
    optimizer = mlhf.MetaHessianFree()
    optimizer.init(model, {path: "embedding"})
    assert optimizer.kinds == ["embedding"]
    optimizer.init(model, "embedding")
    assert optimizer.kinds == ["embedding"]


def test_weights_serve_the_kinds_that_they_were_drawn_for():
    two = {"conv": {"kernel": zeros(1, 1, 1, 2)}, "dense": {"kernel": zeros(2, 2)}}
    optimizer = mlhf.MetaHessianFree()
    optimizer.init(two)
    one = {"dense": {"kernel": zeros(3, 3)}}
    optimizer.init(one)
    (dense,) = optimizer.weights_for(optimizer.layout(one))["y"].kernel1
    np.testing.assert_array_equal(dense, optimizer.weights["y"].kernel1[1])
    with pytest.raises(ValueError, match=r"kinds \['norm_beta'\].*trained for \['conv_kernel'"):
        optimizer.init({"norm": {"beta": zeros(2)}})
