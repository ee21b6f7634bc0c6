"""Labels that are no classes, ignored ones, and bytes, in every optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from custom_op import losses

_random = np.random.default_rng(4)
X = _random.normal(size=(8, 5))
KERNEL = {"dense/kernel": tf.constant(_random.normal(size=(5, 3)))}
LABELS = np.array([0, 2, 1, 1, 2, 0, 0, 2])
OPTIMIZERS = {
    "meta": lambda **k: mlhf.MetaHessianFree(
        0.3, cg_iterations=2, y_use="none", d_use="none", damping=1, **k
    ),
    "hf": lambda **k: mlhf.HessianFree(0.3, cg_iterations=2, **k),
    "martens": lambda **k: mlhf.MartensHessianFree(cg_iterations=3, **k),
    "kfac": lambda **k: mlhf.KFAC(0.1, damping=0.1, fisher="exact", **k),
    "adam": lambda **k: mlhf.FirstOrder(lambda: keras.optimizers.SGD(0.1), **k),
}
SLOW = ("meta", "hf", "martens", "kfac")


def network(parameters, inputs):
    return inputs @ parameters["dense/kernel"]


def step(optimizer, labels, inputs=X, loss="softmax_cross_entropy"):
    objective = mlhf.Objective(network, loss, inputs, labels)
    return optimizer.step(objective, KERNEL, optimizer.init(KERNEL))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_labels_that_are_no_classes_and_those_that_are_ignored(name):
    optimizer, loss = OPTIMIZERS[name](), losses.SoftmaxCrossEntropy(ignore_index=255)
    # Bytes in a column, as keras.datasets gives them.
    there = LABELS != 1
    labels = np.uint8(np.where(there, LABELS, 255))[:, None]
    for wrong in (labels + 1, labels - 1):
        with pytest.raises(
            ValueError, match=r"labels from 0 to 2 \(the classes of 3 logits\) or ig"
        ):
            step(optimizer, wrong, loss=loss)
    # Ignored examples are not there.
    got, right = step(optimizer, labels, loss=loss), step(optimizer, LABELS[there], X[there])
    for part in ("loss", "gradient_norm"):
        np.testing.assert_allclose(got.metrics[part], right.metrics[part], rtol=1e-10)
    np.testing.assert_allclose(*(s.parameters["dense/kernel"] for s in (got, right)), rtol=1e-10)
    if name == "kfac":
        # A batch of which nothing is there says nothing of the factors.
        objective = mlhf.Objective(network, loss, X, np.full((8, 1), 255, np.uint8))
        after = optimizer.step(objective, got.parameters, got.state)
        assert after.metrics["loss"] == 0
        tf.nest.map_structure(np.testing.assert_array_equal, after.state.factors, got.state.factors)


@pytest.mark.parametrize("name", ["adam", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_a_compiled_step_names_it_too(name):
    optimizer = OPTIMIZERS[name](jit_compile=True)
    for labels, wrong in ((LABELS - 1, "got -1"), (LABELS * 3, "got 6")):
        with pytest.raises(ValueError, match=f"labels from 0 to 2 .*, {wrong}"):
            step(optimizer, labels)
    assert np.isfinite(step(optimizer, LABELS).metrics["loss"])
    # Within a function of the user's there are only symbols.
    whole = tf.function(lambda y: step(optimizer, y).metrics["loss"], autograph=False)
    assert np.isfinite(whole(tf.constant(LABELS)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"from 0 to 2.*\[-1\]"):
        whole(tf.constant(LABELS - 1))
    loss = losses.SoftmaxCrossEntropy(ignore_index=255)
    with pytest.raises(ValueError, match="or ignore_index=255, got 254"):
        step(optimizer, np.uint8(LABELS) - np.uint8(2), loss=loss)
    # A new loss that says the same compiles nothing new.
    before = len(optimizer._compiled)
    loss = losses.SoftmaxCrossEntropy(ignore_index=255)
    assert np.isfinite(step(optimizer, np.uint8(LABELS) - np.uint8(1), loss=loss).metrics["loss"])
    assert len(optimizer._compiled) == before


def test_a_network_that_reads_what_it_is_given():
    kernel = tf.Variable(KERNEL["dense/kernel"].numpy(), name="kernel")
    parameters = {"dense/kernel": tf.convert_to_tensor(kernel)}
    optimizer = OPTIMIZERS["adam"]()

    def partly(parameters, inputs):
        return network(parameters, inputs) + 0.1 * tf.tanh(inputs @ kernel)

    objective = mlhf.Objective(partly, "softmax_cross_entropy", X, LABELS)
    with pytest.raises(ValueError, match="reads the variable 'kernel' itself, .* 'dense/kernel'"):
        optimizer.step(objective, parameters, optimizer.init(parameters))
    # Other parameters of the same value are not read from it.
    parameters = {"dense/kernel": tf.constant(kernel.numpy())}
    optimizer.step(objective, parameters, optimizer.init(parameters))
