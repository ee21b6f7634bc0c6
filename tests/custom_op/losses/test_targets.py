"""Targets of every form that a loss takes, and those that it can not take, in every mode."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op import losses

_random = np.random.default_rng(11)
X = _random.normal(size=(6, 5)).astype("float32")
W = _random.normal(size=(5, 4)).astype("float32")
V = _random.normal(size=(5, 4)).astype("float32")
Z = _random.normal(size=(6, 4))
LABELS = np.array([0, 3, 1, 2, 3, 0])
NAN = float("nan")
KINDS = ("gauss_newton", "hessian", "exact", "sampled", "empirical")


def network(w, x=X):
    return tf.tanh(x @ w)


def of_all_operators(loss, targets, kinds=KINDS, **given):
    """Loss, gradient and a product of each."""
    found = []
    for kind in kinds:
        if kind in ("gauss_newton", "hessian"):
            make = getattr(custom_op, kind)
        else:
            make = functools.partial(custom_op.fisher, kind=kind)
        operator = make(network, tf.constant(W), loss, targets, **given)
        found.append((operator.loss(), operator.gradient(), operator @ tf.constant(V)))
    return found


def of_loss(name, z, y, **given):
    """Value, gradient and a product."""
    evaluation = losses.get(name).evaluate(z, y, **given)
    return evaluation.value(), evaluation.gradient(), evaluation.hessian_product(evaluation.outputs)


def traced(function, jit, *specs):
    return tf.function(function, jit_compile=jit, autograph=False, input_signature=list(specs))


def test_classes_of_every_integer_dtype():
    name = "softmax_cross_entropy"
    right = of_loss(name, Z, LABELS)
    for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64"):
        for labels in (LABELS.astype(dtype), LABELS.astype(dtype)[:, None]):
            for got, expected in zip(of_loss(name, Z, labels), right, strict=True):
                np.testing.assert_array_equal(got, expected)
    yes = LABELS > 1
    for labels in (yes, yes[:, None]):
        got, expected = of_loss(name, Z, labels), of_loss(name, Z, yes.astype(int))
        np.testing.assert_array_equal(got[1], expected[1])
    as_classes, as_probabilities = of_loss(name, Z, LABELS), of_loss(name, Z, np.eye(4)[LABELS] > 0)
    np.testing.assert_allclose(as_probabilities[2], as_classes[2])
    both = traced(
        lambda y: (of_all_operators(name, y), of_all_operators(name, tf.cast(y[:, 0], tf.int64))),
        False,
        tf.TensorSpec([6, 1], tf.uint8),
    )
    for got, expected in zip(*both(LABELS.astype("uint8")[:, None]), strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


WRONG = {
    "label too large": ("softmax_cross_entropy", LABELS + [0, 0, 9, 0, 0, 0], "0 to 3", "10"),
    "label of -1": ("softmax_cross_entropy", LABELS - [1, 0, 0, 0, 0, 0], "0 to 3", "-1"),
    "byte": ("softmax_cross_entropy", np.uint8([0, 1, 2, 3, 255, 0]), "0 to 3", "255"),
    "column": ("softmax_cross_entropy", LABELS[:, None] + 1, "0 to 3", "4"),
    "no probability": ("softmax_cross_entropy", np.full((6, 4), -0.25), "at least 0", "-0.25"),
    "sigmoid": ("sigmoid_cross_entropy", np.full((6, 4), 1.5), "from 0 to 1", "1.5"),
    "signs": ("sigmoid_cross_entropy", np.full((6, 4), -1), "from 0 to 1", "-1"),
    "counts": ("poisson", np.full((6, 4), -2), "counts of at least 0", "-2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_exist_gives_no_number(case):
    name, targets, range_, wrong = WRONG[case]
    sentence = f"expected .*{range_}.* got {wrong}"
    with pytest.raises(ValueError, match=sentence):
        of_loss(name, Z, targets)
    # Known where it is traced, and so for XLA too.
    closed = tf.function(lambda z: of_loss(name, z, targets), jit_compile=True)
    with pytest.raises(ValueError, match=sentence):
        closed.get_concrete_function(tf.TensorSpec([6, 4], tf.float64))
    given = tf.constant(targets)
    spec = tf.TensorSpec(given.shape, given.dtype)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{range_}.*{wrong}"):
        traced(lambda y: of_loss(name, Z, y), False, spec)(given)
    # What XLA compiles can not speak.
    run = traced(lambda y: of_loss(name, Z, y), True, spec)
    for part in run(given):
        assert np.all(np.isnan(part))
    for part in run(tf.zeros_like(given)):
        assert np.all(np.isfinite(part))


def test_no_operator_gives_a_number_for_a_class_that_is_none():
    name, spec = "softmax_cross_entropy", tf.TensorSpec([6], tf.int64)
    wrong = LABELS - [0, 0, 0, 0, 4, 0]
    for operator in (custom_op.gauss_newton, custom_op.hessian, custom_op.fisher):
        with pytest.raises(ValueError, match="labels from 0 to 3 .* got -1"):
            operator(network, tf.constant(W), name, wrong)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"0 to 3.* got\] \[-1\] \[to\] \[3\]"):
        traced(lambda y: of_all_operators(name, y), False, spec)(wrong)
    # XLA draws no classes.
    kinds = [kind for kind in KINDS if kind != "sampled"]
    run = traced(lambda y: of_all_operators(name, y, kinds), True, spec)
    for kind, parts in zip(kinds, run(wrong), strict=True):
        assert all(np.all(np.isnan(part)) for part in parts), kind
    for parts in run(LABELS):
        assert all(np.all(np.isfinite(part)) for part in parts)
    assert run.experimental_get_tracing_count() == 1
    data = [(X[:4], LABELS[:4]), (X[4:], LABELS[4:] + 2)]
    operator = custom_op.gauss_newton(network, tf.constant(W), name, data=data)
    with pytest.raises(ValueError, match="In batch 1 of the data: .* 0 to 3 .*got 2 to 5; give"):
        operator.gradient()


@pytest.mark.parametrize("name", losses.names())
def test_targets_and_weights_that_are_no_numbers(name):
    targets, weights = np.full((6, 4), 0.25), np.ones(6)
    for number in (np.inf, NAN):
        targets[2, 1] = number
        with pytest.raises(ValueError, match=f"got {number} .1 of 24"):
            of_loss(name, Z, targets)
    targets[2, 1], weights[4] = 0, NAN
    with pytest.raises(ValueError, match=r"finite weights, got nan \(1 of 6\)"):
        of_loss(name, Z, targets, weights=weights)
    # At masked places anything may stand.
    targets[4] = NAN
    for part in of_loss(name, Z, targets, weights=weights, mask=np.arange(6) != 4):
        assert np.all(np.isfinite(part))


def test_shapes_that_are_known_late():
    z, y = tf.constant(Z[:, :1]), tf.constant(np.abs(Z[:, 1:2]) / 9)
    for name in ("squared_error", "sigmoid_cross_entropy"):
        for jit in (False, True):
            run = traced(
                lambda y, name=name: of_loss(name, z, y), jit, tf.TensorSpec(None, tf.float64)
            )
            for got, right in zip(run(y), of_loss(name, z, y), strict=True):
                np.testing.assert_allclose(got, right, rtol=1e-14)
            # Once broadcast to a table of all with all.
            with pytest.raises(tf.errors.InvalidArgumentError, match="hape"):
                run(y[:, 0])
    name, open_ = "softmax_cross_entropy", tf.TensorSpec([None, 4], tf.float64)
    for spec, targets in (
        (open_, np.full((1, 4), 0.25)),
        (tf.TensorSpec([None], tf.int64), LABELS[:1]),
    ):
        run, compiled = (
            traced(lambda z, y: of_loss(name, z, y), jit, open_, spec) for jit in (False, True)
        )
        assert np.isfinite(run(Z[:1], targets)[0])
        # One row of targets for six of outputs; no row at all.
        for rows in (Z, Z[:0]):
            with pytest.raises(tf.errors.InvalidArgumentError, match="no empty batch; got"):
                run(rows, targets)
        for part in compiled(Z, targets):
            assert np.all(np.isnan(part))


def test_shapes_and_dtypes_with_a_remedy():
    z = tf.zeros([6, 4])
    softmax, squared = losses.get("softmax_cross_entropy"), losses.get("squared_error")
    for targets in (LABELS.astype(float), LABELS[:, None].astype(float)):
        with pytest.raises(ValueError, match=r"have to be integers: tf.cast\(targets, tf.int32"):
            softmax.evaluate(z, targets)
    with pytest.raises(ValueError, match=r"have to be floating: tf.cast\(targets, tf.float32"):
        softmax.evaluate(z, np.eye(4, dtype=int)[LABELS])
    with pytest.raises(ValueError, match=r"targets\[..., tf.newaxis\]"):
        squared.evaluate(z[:, :1], np.zeros(6))
    with pytest.raises(ValueError, match="tf.squeeze"):
        squared.evaluate(z[:, 0], np.zeros((6, 1)))
    for loss, targets in ((softmax, LABELS[:0]), (squared, np.zeros((0, 4)))):
        with pytest.raises(ValueError, match="at least one example, got outputs"):
            loss.evaluate(z[:0], targets)
    with pytest.raises(TypeError, match="ignore_index= to be an integer, got 0.5"):
        losses.SoftmaxCrossEntropy(ignore_index=0.5)
    assert losses.SoftmaxCrossEntropy(ignore_index=-1) == losses.SoftmaxCrossEntropy(-1)
    assert losses.SoftmaxCrossEntropy(ignore_index=-1) != softmax


def test_ignored_rows_are_not_there():
    loss, there = losses.SoftmaxCrossEntropy(ignore_index=-1), np.isin(np.arange(6), [0, 2, 3, 5])
    labels, spec = np.where(there, LABELS, -1), tf.TensorSpec([6], tf.int64)
    run = traced(lambda y: of_all_operators(loss, y), False, spec)
    # The sampled matrix draws by an example's number: masked rows stand where ignored ones do.
    masked = of_all_operators("softmax_cross_entropy", LABELS, mask=there)
    for parts, right in zip(run(labels), masked, strict=True):
        for got, expected in zip(parts, right, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    rows = Z[there], LABELS[there]
    for got, expected in zip(
        of_loss(loss, Z, labels), of_loss("softmax_cross_entropy", *rows), strict=True
    ):
        expected = np.asarray(expected)
        whole = np.zeros(np.shape(got))
        whole[there if expected.ndim else ...] = expected
        np.testing.assert_allclose(got, whole, rtol=1e-13)
    # The mean over no rows at all is 0, as where all are masked.
    for parts in run(np.full(6, -1)):
        assert all(not np.any(part) for part in parts)
    # A label that is neither a class nor ignored is still none.
    with pytest.raises(ValueError, match="or ignore_index=-1, got -2"):
        of_loss(loss, Z, np.where(there, LABELS, -2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="or ignore_index=-1"):
        run(np.where(there, LABELS, -2))


def test_a_loss_of_keras_with_an_ignored_class():
    given = keras.losses.SparseCategoricalCrossentropy(True, ignore_class=2)
    loss = losses.get(given)
    assert loss == losses.SoftmaxCrossEntropy(ignore_index=2)
    expected = given(LABELS, Z.astype("float32"))
    np.testing.assert_allclose(of_loss(loss, Z, LABELS)[0], expected, rtol=1e-6)


def test_ignored_places_of_a_sequence_and_masks():
    loss, z = losses.SoftmaxCrossEntropy(ignore_index=255), _random.normal(size=(2, 3, 4))
    labels = np.uint8([[0, 255, 2], [3, 1, 255]])
    evaluation = loss.evaluate(z, labels, mask=np.array([True, False]))
    log_s = z - np.log(np.exp(z).sum(-1, keepdims=True))
    np.testing.assert_allclose(evaluation.value(), -(log_s[0, 0, 0] + log_s[0, 2, 2]) / 2)
    assert (evaluation.count, evaluation.examples) == (2, 1)


def test_parameters_that_nothing_depends_on():
    name, z = "softmax_cross_entropy", tf.zeros([2, 3])

    def both(p, x=X):
        return network(p["w"], x)

    point = {"w": tf.constant(W), "z": z}
    with pytest.raises(ValueError, match="do not depend on .'z'"):
        custom_op.gauss_newton(both, point, name, LABELS)

    v = {"w": tf.constant(V), "z": tf.ones([2, 3])}
    data = [(X[:2], LABELS[:2]), (X[2:], LABELS[2:])]
    for kind in (custom_op.gauss_newton, custom_op.hessian, custom_op.fisher):
        alone = kind(network, tf.constant(W), name, LABELS)
        found = [kind(both, point, name, LABELS, unconnected="zero")]
        if kind is custom_op.hessian:
            found.append(kind(both, point, name, data=data, unconnected="zero"))
        for operator in found:
            for got, expected in (
                (operator.gradient(), alone.gradient()),
                (operator @ v, alone @ v["w"]),
            ):
                np.testing.assert_allclose(got["w"], expected, atol=1e-6)
                assert not np.any(got["z"])
    alone = custom_op.jacobian(network, tf.constant(W))
    jacobian = custom_op.jacobian(both, point, unconnected="zero")
    np.testing.assert_allclose(jacobian @ v, alone @ v["w"], atol=1e-6)
    assert not np.any(jacobian.rmatvec(tf.ones([6, 4]))["z"])
