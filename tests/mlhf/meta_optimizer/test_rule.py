"""The settings of a rule: one dataclass, of which the others are derived."""

import dataclasses
import inspect

import pytest

import mlhf
from mlhf.meta_optimizer.rule import Rule


def test_the_constructor_takes_every_setting_with_its_default():
    arguments = inspect.signature(mlhf.MetaHessianFree).parameters
    for field in dataclasses.fields(Rule):
        assert arguments[field.name].default == field.default, field.name
    assert mlhf.MetaHessianFree(cg_iterations=3).rule == Rule(cg_iterations=3)


def test_a_file_keeps_the_settings_in_the_constructors_order():
    settings = mlhf.MetaHessianFree(product_dtype="bfloat16", longest_step=0.25).settings
    order = list(inspect.signature(mlhf.MetaHessianFree).parameters)
    assert list(settings) == order[: order.index("longest_step") + 1]
    assert settings["longest_step"] == 0.25 and "product_dtype" not in settings


def test_signatures_are_those_of_older_checkpoints():
    """A field that is younger than they are is left out at its default."""
    oldest = "('x', 'rnn', 'rnn', 2, 'regular', 0.9, None)"
    assert Rule().signature == Rule(longest_step=0.25).signature == oldest
    younger = Rule(damping_scale=0.5, inputs="gx").signature
    assert younger == oldest + " {'damping_scale': 0.5, 'inputs': 'gx'}"
    assert Rule.younger_defaults() == {
        "curvature_share": 1.0,
        "input_scale": "none",
        "damping_scale": 1.0,
        "inputs": "grx",
        "longest_step": None,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("x_use", "none"), ("cg_iterations", 0), ("decay", 1.0), ("longest_step", -1.0)],
)
def test_what_makes_no_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^Expected {name} to be"):
        Rule(**{name: value})
