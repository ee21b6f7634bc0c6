"""`check_rule` has to fail on wrong rules, each in its own way."""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op import registry

X = np.array([-1.3, -0.4, 0.7, 2.0])


def _slope(op):
    return 1 / tf.square(1 + tf.abs(op.inputs[0]))


WRONG = {
    "scaled": (
        lambda op: lambda t: 1.0001 * _slope(op) * t,
        "J v against finite differences, output 'y'",
    ),
    "affine": (lambda op: lambda t: _slope(op) * t + 1e-7, "J.2v . 3w. against"),
    "transpose": (
        lambda op: lambda t: _slope(op) * (tf.stop_gradient(t) + t) / 2,
        "<Jᵀu, v> against",
    ),
    "frozen": (
        lambda op: lambda t: tf.stop_gradient(_slope(op)) * t,
        "derivative of J v against finite differences, by R-forward",
    ),
    "nan": (lambda op: lambda t: _slope(op) * t * np.nan, "and got nan at index"),
}


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    rules = {op_type: rule for op_type, rule in registry._RULES.items() if op_type != "Softsign"}
    monkeypatch.setattr(registry, "_RULES", rules)


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_rule_fails(kind):
    rule, text = WRONG[kind]
    custom_op.register_r_forward("Softsign")(rule)
    with pytest.raises(AssertionError, match=text) as caught:
        custom_op.check_rule(lambda x: {"y": tf.nn.softsign(x)}, X)
    assert "expected" in str(caught.value)
    assert "got" in str(caught.value)


def test_the_first_order_alone():
    custom_op.register_r_forward("Softsign")(WRONG["frozen"][0])
    custom_op.check_rule(tf.nn.softsign, X, order=1)
    with pytest.raises(ValueError, match="order=1 or order=2, got 3"):
        custom_op.check_rule(tf.nn.softsign, X, order=3)


def test_structures_and_float32():
    custom_op.register_r_forward("Softsign")(
        lambda op: lambda t: t / tf.square(1 + tf.abs(op.inputs[0]))
    )
    custom_op.check_rule(
        lambda p: [tf.nn.softsign(p["a"]) * p["b"], p["b"] ** 2],
        {"a": X, "b": 2.0},
        dtype=tf.float32,
        tolerance=1e-2,
    )


def test_tiny_numbers_are_no_excuse():
    custom_op.register_r_forward("Softsign")(WRONG["scaled"][0])
    with pytest.raises(AssertionError, match="J v against"):
        custom_op.check_rule(lambda x: 1e-12 * tf.nn.softsign(x), X)
