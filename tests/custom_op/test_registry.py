"""The table of rules: registering, replacing, and that every rule has a test."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from custom_op import registry

# All the tables of tests, by the name of their file; that of mended gradients has another form.
TABLES = [
    importlib.import_module(f"tests.custom_op.rules.{path.stem}")
    for path in sorted((Path(__file__).parent / "rules").glob("test_*.py"))
    if path.stem != "test_mended_gradients"
]


@pytest.fixture
def empty_of_softsign(monkeypatch):
    rules = {op_type: rule for op_type, rule in registry._RULES.items() if op_type != "Softsign"}
    monkeypatch.setattr(registry, "_RULES", rules)


def test_every_rule_stands_in_a_table_of_tests():
    # The first two have tests that are not in a table.
    tested = {"StopGradient", "Cast"}
    for module in TABLES:
        for function, inputs, *settings in getattr(module, "CASES", {}).values():
            dtype = dict(*settings).get("dtype", tf.float64)
            specs = tf.nest.map_structure(lambda x, d=dtype: tf.TensorSpec(x.shape, d), inputs)
            traced = tf.function(function, autograph=False).get_concrete_function(specs)
            tested |= {op.type for op in traced.graph.get_operations()}
    # The lists of tensors that loops keep are tested with the loops.
    lists = {t for t in custom_op.supported_ops() if t.startswith(("TensorList", "Optional"))}
    assert set(custom_op.supported_ops()) - tested - lists == set()


def test_supported_ops_are_sorted_operations():
    names = custom_op.supported_ops()
    assert names == sorted(names)
    assert {"Conv2D", "MatMul", "MaxPool", "Relu"} <= set(names)
    assert [name for name in names if not hasattr(tf.raw_ops, name)] == []


def test_a_rule_of_ones_own(empty_of_softsign):
    with pytest.raises(custom_op.NotDifferentiableError, match="Softsign"):
        custom_op.check_rule(tf.nn.softsign, np.linspace(-2, 2, 6))

    @custom_op.register_r_forward("Softsign")
    def softsign(op):
        slope = 1 / tf.square(1 + tf.abs(op.inputs[0]))
        return lambda tangent: slope * tangent

    custom_op.check_rule(tf.nn.softsign, np.linspace(-2, 2, 6))
    assert "Softsign" in custom_op.supported_ops()
    assert registry.find_rule("Softsign") is softsign


def test_a_rule_is_replaced_only_by_override(empty_of_softsign):
    with pytest.raises(ValueError, match="'Relu' has an R-forward rule already"):
        custom_op.register_r_forward("Relu")(lambda op: None)

    @custom_op.register_r_forward("Relu", override=True)
    def doubled(op):
        return lambda tangent: 2 * tangent

    assert custom_op.jvp(tf.nn.relu, tf.constant(1.0), tf.constant(1.0))[1] == 2.0
    with pytest.raises(ValueError, match="needs an operation's type"):
        custom_op.register_r_forward()


def test_a_rule_without_a_transpose_says_so(empty_of_softsign):
    @custom_op.register_r_forward("Softsign")
    def softsign(op):
        return lambda tangent: tf.raw_ops.SoftsignGrad(gradients=tangent, features=op.inputs[0])

    @tf.function(autograph=False)
    def run(x):
        linear = custom_op.linearize(tf.nn.softsign, x)
        linear.jvp(x)
        return linear.vjp(x)

    with pytest.raises(custom_op.NotDifferentiableError, match="SoftsignGrad"):
        run(tf.ones([2]))


def test_replay_is_seen_by_a_tape():
    @tf.function(autograph=False)
    def run(x, y):
        op = tf.matmul(x, y, transpose_b=True).op
        with tf.GradientTape() as tape:
            tape.watch((x, y))
            (again,) = registry.replay(op, [x * 2, y])
        return tape.gradient(again, (x, y))

    x = tf.constant([[1.0, 2.0]])
    y = tf.constant([[3.0, 5.0]])
    to_x, to_y = run(x, y)
    np.testing.assert_allclose(to_x, 2 * y)
    np.testing.assert_allclose(to_y, 2 * x)
