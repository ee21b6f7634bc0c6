"""The optimizers by their names on the command line."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import contract
from train_val.problems import image_problems
from train_val.training import loop, optimizers

# Rates at which they get on with a small quadratic; those that scale their steps need large ones.
RATES = {"Adadelta": 100.0, "Adafactor": 10.0, "Lamb": 0.5, "Prodigy": 1.0, "AMUSE": 1.0}


@pytest.fixture(scope="module")
def problem():
    return image_problems.make("mlp", "digits", batch_size=32)


def test_every_optimizer_of_keras_has_a_name():
    known = {name.lower() for name in optimizers.NAMES}
    for name, kind in vars(keras.optimizers).items():
        if isinstance(kind, type) and name not in (
            "Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"
        ):  # fmt: skip
            assert name.lower() in known
    assert {"meta", "sgd", "momentum", "adam", "rmsprop", "kfac", "martens"} <= known


@pytest.mark.parametrize("name", optimizers.NAMES[7:])
def test_an_optimizer_with_a_rate_keeps_the_contract(name, tmp_path):
    def make():
        return optimizers.make(name.upper(), lr=RATES.get(name, 0.1)).optimizer

    contract.check(make, tmp_path, steps=15, factor=0.9, anew=False)


@pytest.mark.parametrize("name", ["kfac", "martens"])
def test_a_run_that_was_killed_goes_on(name, problem, tmp_path):
    rule = {"CG_iter": 5, "damping": 0.1}
    optimizer = optimizers.make(name, rule=rule, given=set(rule)).optimizer

    def go(folder, steps):
        return loop.train(
            problem, optimizer, steps, model_dir=tmp_path / folder, save_steps=2, progress=False
        )

    whole = go("whole", 4)
    go("part", 2)
    part = go("part", 4)
    for a, b in zip(
        tf.nest.flatten((whole.parameters, whole.optimizer_state)),
        tf.nest.flatten((part.parameters, part.optimizer_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_what_an_optimizer_has_no_use_for_is_said():
    given = {"lr", "CG_iter", "decay"}
    rule = {"CG_iter": 3, "decay": 0.5}

    def notes(name, **settings):
        return optimizers.make(name, lr=0.1, **settings).notes

    assert notes("adam") == []
    assert notes("adam", rule=rule, given=given, meta_ckpt="x") == [
        "adam has no use for meta_ckpt, CG_iter, decay."
    ]
    assert notes("martens", rule=rule, given=given)[1:] == ["martens has no use for lr."]
    assert notes("kfac", rule=rule, given=given)[1:] == ["kfac has no use for CG_iter."]
    assert notes("RMSprop", rule=rule, given=given) == ["RMSprop has no use for CG_iter."]
    of_lstms = {"inputs": "g", "input_scale": "rms", "y_use": "none", "d_use": "none"}
    assert notes("meta", rule=of_lstms, given=set(of_lstms))[1:] == [
        "Plain Hessian-free has no use for input_scale, inputs."
    ]


def test_the_precision_of_products_identifies_a_run():
    for settings in ({"meta_ckpt": "convnet"}, {"rule": {"y_use": "none", "d_use": "none"}}):
        exact, rough = (
            optimizers.make("meta", **settings, product_dtype=dtype).settings
            for dtype in (None, "bfloat16")
        )
        assert "product_dtype" not in exact  # as runs of before have it
        assert rough == {**exact, "product_dtype": "bfloat16"}


def test_what_is_given_holds_and_the_rest_is_the_classs():
    rule = {"damping": 0.5, "damping_type": "LM_heuristics", "decay": 0.8, "CG_iter": 7}
    chosen = optimizers.make("kfac", lr=0.2, momentum=0.5, rule=rule, given={"lr", "damping"})
    assert (chosen.optimizer.learning_rate, chosen.optimizer.momentum) == (0.2, 0.5)
    assert chosen.optimizer.damping == 0.5
    assert chosen.notes == ["K-FAC: damping=0.5, learning_rate=0.2, momentum=0.5."]
    chosen = optimizers.make("kfac", lr=0.2, rule=rule, given={"CG_iter"})
    assert (chosen.optimizer.learning_rate, chosen.optimizer.damping) == (None, 1.0)
    assert "rate and momentum by the quadratic model" in chosen.notes[0]
    rule["curvature_share"] = 0.25
    assert "curvature" not in optimizers.make("kfac", rule=rule, given=set(rule)).settings["rule"]
    chosen = optimizers.make("martens", rule=rule, given=set(rule))
    assert chosen.settings["rule"] == (
        '{"damping": 0.5, "damping_type": "LM_heuristics", "decay": 0.8, "cg_iterations": 7,'
        ' "curvature_share": 0.25}'
    )


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("moon", {}, r"one of \['meta', 'kfac', 'martens', .* got 'moon'"),
        ("AdamW", {"lr": 0.0}, "Expected lr to be a finite number above 0, got 0.0"),
        ("kfac", {"lr": -1.0, "given": {"lr"}}, "Expected learning_rate to be .* got -1.0"),
        (
            "martens",
            {"rule": {"curvature_share": 0.0}, "given": {"curvature_share"}},
            "Expected curvature_share to be .* got 0.0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        optimizers.make(name, **settings)
