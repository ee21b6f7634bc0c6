"""Random networks: derivatives and steps against dense float64 matrices.

`python -m benchmarks.random_cases networks` checks thousands; these are its first hundred.
"""

import numpy as np
import pytest
import tensorflow as tf

import custom_op
from benchmarks.random_cases import networks
from benchmarks.random_cases.networks import checks, control, program, reference
from benchmarks.random_cases.networks.builder import Builder
from benchmarks.random_cases.networks.templates import TEMPLATES
from benchmarks.random_cases.outcome import FAILED, NO_REFERENCE, OK, REFUSED
from custom_op import registry

# Not drawn themselves: they are what derivatives of max pooling may be made of.
IN_DERIVATIVES = {"MaxPoolGradGrad", "MaxPoolGradGradV2", "MaxPool3DGradGrad"}
GROUPS, EACH, QUICK = 20, 5, 3


# A network takes two to three seconds of one core: most of the hundred are slow tests.
@pytest.mark.parametrize(
    "group",
    [pytest.param(i, marks=[pytest.mark.slow] if i >= QUICK else []) for i in range(GROUPS)],
)
def test_networks(group):
    for seed in range(group * EACH, (group + 1) * EACH):
        outcome = networks.run_case(seed)
        states = {s for s in outcome.modes.values() if s in (FAILED, REFUSED, NO_REFERENCE)}
        assert not states, "\n".join([f"network {seed}", *outcome.notes, outcome.program])


@pytest.mark.slow
@pytest.mark.parametrize("group", range(20))
def test_networks_in_all_modes(group):
    for seed in range(10_000 + 2 * group, 10_002 + 2 * group):
        outcome = networks.run_case(seed, thorough=True)
        assert not outcome.failed(), "\n".join([*outcome.notes, outcome.program])


def test_every_operation_with_a_rule_is_drawn():
    drawn = {op for template in TEMPLATES for op in template.ops}
    assert set(custom_op.supported_ops()) - drawn == IN_DERIVATIVES


@pytest.mark.slow
def test_templates_have_the_operations_they_say():
    for i, template in enumerate(TEMPLATES):
        b = Builder(np.random.default_rng(i))
        made = program.finish(b, b.apply(template, None), [])
        network = made.network()
        traced = tf.function(lambda flat, n=network, m=made: n(m.structure(flat)), autograph=False)
        graph = traced.get_concrete_function(tf.constant(made.point())).graph.as_graph_def()
        types = {node.op for node in graph.node}
        types.update(node.op for each in graph.library.function for node in each.node_def)
        assert set(template.ops) <= types, template.expression


def test_one_integer_is_one_network():
    first, second = (str(program.generate(7)) for _ in range(2))
    assert first == second
    assert "def network(p):" in first
    assert first != str(program.generate(7, attempt=1))


def test_all_controls_are_drawn():
    b = Builder(np.random.default_rng(0))
    x = b.let("tf.sin({0})", b.parameter([2, 2]))
    for name in sorted(control.CONTROLS):
        x = control.around(b, x, 0, name)
    text = program.finish(b, x, []).text
    for word in ("tf.while_loop", "tf.cond", "tf.switch_case", "call(", "recompute(", "pull("):
        assert word in text


def test_an_error_of_a_ten_thousandth_is_found():
    b = Builder(np.random.default_rng(3))
    made = program.finish(b, b.let("tf.tanh({0})", b.let("2.0 * {0}", b.parameter([2, 3]))), [])
    known = reference.compute(made, 3)
    assert known.known
    assert checks.check(made, known, "graph") == (OK, "")
    rule = registry.find_rule("Tanh")

    def wrong(op):
        right = rule(op)
        return lambda t: right(t) * tf.constant([1, 1, 1.0001], tf.float64)

    custom_op.register_r_forward("Tanh", override=True)(wrong)
    try:
        state, note = checks.check(made, known, "graph")
    finally:
        custom_op.register_r_forward("Tanh", override=True)(rule)
    assert state == FAILED
    for name in ("J v", "G v", "H v", "gradient"):
        assert f"{name}: expected" in note


def test_a_kink_is_no_reference():
    b = Builder(np.random.default_rng(3))
    x = b.parameter([2, 3])
    made = program.finish(b, b.let(f"tf.abs({{0}} - {x.value[0, 0]})", x), [])
    assert not reference.compute(made, 3).known
