"""Every flag of every command: numbers are checked, all stand in a group, defaults are right."""

import dataclasses
import importlib
import re

import pytest
from absl import flags

from tests.train_val.cli.test_commands import COMMANDS
from train_val.cli import definitions, running
from train_val.cli.flags import experiment_flags, use_flags
from train_val.training import optimizer_table

FLAGS = flags.FLAGS


def module_of(command):
    return importlib.import_module(command.removesuffix(".py").replace("/", "."))


def define(module):
    before = set(FLAGS)
    module.define_flags()
    return sorted(set(FLAGS) - before)


@pytest.fixture(params=COMMANDS, ids=lambda command: command.rpartition("/")[2])
def defined(request):
    """The names of a command's flags, defined."""
    found = define(module_of(request.param))
    yield found
    for name in found:
        delattr(FLAGS, name)


def test_every_number_is_checked_as_it_is_read(defined):
    numeric = [name for name in defined if FLAGS[name].flag_type() in ("float", "int")]
    for name in numeric:
        for value in ("nan", "inf", "-inf", "x", "1e400", ""):
            with pytest.raises(running.WrongUsage, match=rf"--{name}\b.*got") as end:
                running.read_flags(["command", f"--{name}={value}"])
            assert end.value.code == 2 and "\n" not in str(end.value)
        # Nothing here is negative but a loss to reach.
        if name != "target":
            with pytest.raises(running.WrongUsage, match=f"Expected --{name} to be"):
                running.read_flags(["command", f"--{name}=-1"])


def test_every_flag_says_what_it_is_for(defined):
    for name in defined:
        assert definitions.about(FLAGS[name]).group in definitions.GROUPS
        text = FLAGS[name].help
        assert re.match(r"[A-Zc\d]", text) and text.endswith("."), (name, text)
        assert not re.match(r"(Of|Whose) ", text)


def test_flags_of_the_rule_are_its_settings():
    from mlhf.meta_optimizer.rule import Rule

    given = define(use_flags)
    fields = {field.name: field for field in dataclasses.fields(Rule)}
    for flag, name in optimizer_table.RULE.items():
        if name in fields:
            assert FLAGS[flag].default == fields[name].default, flag
            for value in getattr(FLAGS[flag].parser, "enum_values", []):
                Rule(**{name: value})
    for name in given:
        delattr(FLAGS, name)


@pytest.mark.parametrize("optimizer", optimizer_table.TRAINING)
def test_the_rate_is_the_one_that_stands_beside_the_optimizer(optimizer):
    from train_val.training import optimizers

    arguments = {"meta_ckpt": "convnet"} if optimizer == "meta" else {}
    made = optimizers.make(optimizer, **arguments).optimizer
    rate = optimizer_table.default_rate(optimizer)
    if rate is None:
        trained = {"meta": 0.5, "kfac": None}
        expected = optimizers.mlhf.MetaHessianFree.from_pretrained("convnet").learning_rate
        assert getattr(made, "learning_rate", None) == (
            expected if optimizer == "meta" else trained.get(optimizer)
        )
        return
    # The class's own default, Keras' whatever the version.
    kind = {"momentum": "SGD", "adam": "Adam"}.get(optimizer, optimizer)
    own = float((optimizers.KERAS.get(kind) or getattr(optimizers.mlhf, kind))().learning_rate)
    assert made.learning_rate == pytest.approx(rate) and rate == pytest.approx(own)


def test_plain_hessian_free_has_the_settings_of_its_class():
    from train_val.training import optimizers

    unused = {"y_use": "none", "d_use": "none", "damping": 2e-5, "CG_iter": 2, "x_use": "x"}
    chosen = optimizers.make("meta", rule=unused)
    assert (chosen.optimizer.damping, chosen.optimizer.learning_rate) == (1.0, 1.0)
    assert chosen.notes[0].startswith("Plain Hessian-free: CG_iter=4, x_use=x, damping=1.0")
    given = optimizers.make("meta", rule=unused, given={"damping"}, lr=0.5)
    assert (given.optimizer.damping, given.optimizer.learning_rate) == (2e-5, 0.5)


def test_who_has_a_flag_of_the_experiments_is_known():
    having: dict[str, list[str]] = {}
    for name in experiment_flags.NAMES:
        before = set(FLAGS)
        experiment_flags.definer(name)()
        for flag in set(FLAGS) - before:
            having.setdefault(flag, []).append(name)
            delattr(FLAGS, flag)
    for flag, experiments in having.items():
        if len(experiments) < len(experiment_flags.NAMES):
            assert sorted(experiment_flags.who_has(flag)) == sorted(experiments), flag
    assert experiment_flags.who_has("none") == []


def test_few_steps_are_not_followed_by_minutes_of_measuring():
    from train_val import use_meta_optimizer
    from train_val.problems import image_problems

    problem = image_problems.make("mlp", "digits")
    found = define(use_flags)
    try:
        for given, expected in {
            (): (750, 297),
            ("--loss_images=100", "--test_images=50"): (100, 50),
        }.items():
            running.read_flags(["command", "--optimizer=SGD", *given], use_flags.check_flags)
            bounded = use_meta_optimizer.bounded(problem, 2)
            assert (bounded.measured_images, bounded.tested_images) == expected
        FLAGS.unparse_flags()
        running.read_flags(["command", "--optimizer=SGD", "--batch_size=4"])
        FLAGS.loss_images = FLAGS.test_images = None
        use_meta_optimizer_least = use_meta_optimizer.LEAST_IMAGES
        try:
            use_meta_optimizer.LEAST_IMAGES = 20
            small, large = (use_meta_optimizer.bounded(problem, steps) for steps in (2, 25))
        finally:
            use_meta_optimizer.LEAST_IMAGES = use_meta_optimizer_least
        assert (small.measured_images, small.tested_images) == (20, 20)
        assert (large.measured_images, large.tested_images) == (100, 100)
    finally:
        for name in found:
            delattr(FLAGS, name)


def test_each_kind_of_optimizer_has_a_folder_of_its_own():
    folders = []
    for given in (
        ["--optimizer=meta", "--meta_ckpt=convnet"],
        ["--y_use=none", "--d_use=none"],
        ["--y_use=none", "--d_use=none", "--damping_type=LM_heuristics"],
        ["--optimizer=kfac"],
        ["--optimizer=kfac", "--damping_type=LM_heuristics"],
        ["--optimizer=martens"],
    ):
        found = define(use_flags)
        try:
            running.read_flags(["command", *given], use_flags.check_flags)
            folders.append(use_flags.default_folder())
        finally:
            for name in found:
                delattr(FLAGS, name)
    assert folders[:3] == ["./eval_convnet_meta", "./eval_convnet_hf", "./eval_convnet_hf_lm"]
    assert len(set(folders)) == 6
