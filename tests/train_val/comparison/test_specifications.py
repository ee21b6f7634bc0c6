import keras
import numpy as np
import pytest

import mlhf
from train_val.comparison import parse, parse_all

PARAMETERS = {"dense/kernel": np.ones([2, 2], np.float32)}


def test_a_name_alone_has_a_grid_of_learning_rates():
    for name in ("hf", "hf_lm", "kfac", "SGD", "momentum", "adam", "RMSprop", "nadam"):
        entrant = parse(name)
        (axis,) = entrant.axes
        assert axis == "learning_rate" and len(entrant.axes[axis]) >= 3
        assert list(entrant.axes[axis]) == sorted(entrant.axes[axis])
        assert entrant.identity["optimizer"] == name.lower()
    assert parse("adam").title == "Adam" and parse("nadam").title == "Nadam"


def test_settings_reach_the_optimizer():
    entrant = parse("hf:cg=7:lr=0.5:damping=0.1/10/1:damping_type=LM_heuristics")
    assert entrant.axes == {"damping": (0.1, 1.0, 10.0)}
    assert entrant.fixed == {
        "learning_rate": 0.5,
        "cg_iterations": 7,
        "damping_type": "LM_heuristics",
    }
    assert entrant.title == "HF, CG 7, lr 0.5, damping type LM_heuristics"
    optimizer = entrant.make({"damping": 10.0})
    assert isinstance(optimizer, mlhf.HessianFree)
    assert (optimizer.learning_rate, optimizer.damping) == (0.5, 10.0)
    assert optimizer.cg_iterations == 7 and optimizer.damping_type == "LM_heuristics"
    # Another value is set on the same optimizer, which is traced once.
    assert entrant.make({"damping": 1.0}) is optimizer and optimizer.damping == 1.0


def test_a_schedule_ends_with_the_run():
    entrant = parse("hf:lr=0.5/1:schedule=linear:warmup=0.2")
    assert entrant.axes == {"learning_rate": (0.5, 1.0)}
    assert entrant.identity["schedule"] == "linear" and "schedule" not in parse("hf").identity
    assert entrant.title == "HF, schedule linear, warmup 0.2"
    short = entrant.make({"learning_rate": 0.5}, 10)
    assert short.learning_rate.get_config() == {
        "learning_rate": 0.5,
        "kind": "linear",
        "horizon": 10,
        "warmup": 0.2,
    }
    # Another rate and length are set on the same optimizer.
    long = entrant.make({"learning_rate": 1.0}, 40)
    assert long is short and repr(long.learning_rate) == repr(mlhf.Schedule(1.0, "linear", 40, 0.2))
    keras = parse("adam:lr=1e-3/1e-2:schedule=cosine:horizon=30")
    for rate in (1e-2, 1e-3):
        made = keras.make({"learning_rate": rate}, 10)
        assert repr(made.learning_rate) == repr(mlhf.Schedule(rate, "cosine", 30))
    tuned = parse("muon:lr=0.02:schedule=linear/cosine")
    kinds = [
        tuned.make({"schedule": kind}, 5).learning_rate.kind for kind in tuned.axes["schedule"]
    ]
    assert kinds == ["linear", "cosine"]
    # Whoever is not tuned gets the schedule too, whatever the length of the run.
    single = parse("prodigy:schedule=cosine")
    assert [single.make({}, n).learning_rate.horizon for n in (5, 7)] == [5, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adam:schedule=step", "schedule to be one of .*'linear'.*got 'step' in 'adam"),
        ("adam:horizon=10", "schedule=linear or cosine beside horizon"),
        ("martens:schedule=linear", "an optimizer with a learning rate beside schedule"),
        ("adam:schedule=linear:warmup=-1", "warmup to be a finite number at least 0"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(text, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        parse(text)


def test_what_is_not_settable_makes_another_optimizer():
    entrant = parse("hf:cg=2/4:lr=1")
    two, four = (entrant.make({"cg_iterations": n}) for n in (2, 4))
    assert two is not four and (two.cg_iterations, four.cg_iterations) == (2, 4)


def test_settings_without_an_outside_need_not_be_numbers():
    entrant = parse("adam:lr=0.1:clipnorm=none/1")
    assert entrant.axes == {"clipnorm": (None, 1)}
    makes = [entrant.make({"clipnorm": value})._optimizer.clipnorm for value in (None, 1)]
    assert makes == [None, 1]


def test_whole_numbers_and_none_are_what_a_setting_takes(tmp_path):
    for text in ("SGD:lr=1", "adam:lr=1"):
        assert float(parse(text).make({})._optimizer.learning_rate) == 1
    assert (
        parse("untrained:input_scale=none").make({"learning_rate": 1.0}).rule.input_scale == "none"
    )
    assert parse("untrained:y_use=none").make({"learning_rate": 1.0}).rule.y_use == "none"


def test_the_names_stand_for_what_they_say():
    assert parse("hf_lm").make({"learning_rate": 1.0}).damping_type == "LM_heuristics"
    assert isinstance(parse("kfac").make({"learning_rate": 0.1}), mlhf.KFAC)
    quadratic_model = parse("kfac:lr=none:damping=0.1/1").make({"damping": 0.1})
    assert quadratic_model.learning_rate is None and quadratic_model.damping == 0.1
    martens = parse("martens:cg=9:share=0.25")
    assert martens.axes == {"damping": (0.1, 1.0, 10.0)}
    assert martens.title == "Martens' HF, CG 9, curvature share 0.25"
    assert isinstance(martens.make({"damping": 0.1}), mlhf.MartensHessianFree)
    momentum = parse("momentum").make({"learning_rate": 0.25})
    assert isinstance(momentum, mlhf.FirstOrder) and momentum.learning_rate == 0.25
    assert isinstance(momentum._optimizer, keras.optimizers.SGD)
    assert momentum._optimizer.momentum == 0.9
    assert parse("rmsprop:rho=0.99:lr=0.1").make({})._optimizer.rho == 0.99


def test_a_trained_mlhf_keeps_its_settings_and_is_known_by_its_weights(tmp_path):
    optimizer = mlhf.MetaHessianFree(2.0, cg_iterations=3, seed=1)
    optimizer.init(PARAMETERS)
    path = optimizer.save(tmp_path / "one.npz")
    entrant = parse("meta", str(path))
    assert entrant.axes == {"learning_rate": (0.3, 1.0, 3.0)}
    made = entrant.make({"learning_rate": 0.3})
    assert made.rule.cg_iterations == 3 and made.learning_rate == 0.3
    assert parse(f"meta:path={path}:cg=5:lr=2").make({}).rule.cg_iterations == 5
    another = mlhf.MetaHessianFree(2.0, cg_iterations=3, seed=2)
    another.init(PARAMETERS)
    other = parse("meta", str(another.save(tmp_path / "two.npz")))
    assert other.identity["weights"] != entrant.identity["weights"]
    assert {**other.identity, "weights": ""} == {**entrant.identity, "weights": ""}
    assert "learning_rate" not in entrant.identity
    # Runs of before there was a share keep their place; those on a share have another.
    assert "curvature_share" not in entrant.identity
    part = parse(f"meta:path={path}:share=0.25")
    assert part.identity["curvature_share"] == 0.25
    assert part.make({"learning_rate": 1.0}).rule.curvature_share == 0.25
    assert parse(f"meta:path={path}:share=0.25/0.5").axes["curvature_share"] == (0.25, 0.5)


def test_what_meta_training_begins_from_takes_part():
    entrant = parse("untrained:cg=3")
    assert entrant.title == "MLHF, not trained, CG 3" and set(entrant.axes) == {"learning_rate"}
    first, again = (parse("untrained:cg=3").make({"learning_rate": 0.5}) for _ in range(2))
    assert first.rule.cg_iterations == 3 and first.weights is None
    for optimizer in (first, again):
        optimizer.init(PARAMETERS)
    for a, b in zip(first.weights["y"], again.weights["y"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_plain_hessian_free_on_a_share_of_the_batch():
    assert parse("hf:share=0.25").make({"learning_rate": 1.0}).curvature_share == 0.25


def test_a_list():
    entrants = parse_all("SGD, adam:lr=0.1:title=Adam at 0.1,adam")
    assert [entrant.title for entrant in entrants] == ["SGD", "Adam at 0.1", "Adam"]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("adamant", "Expected an optimizer among .*'kfac'.*'nadam'.*, got 'adamant'"),
        ("hf:cgs=2", r"Expected settings of hf among .*'cg_iterations'.*got \['cgs'\]"),
        ("adam:lr", "Expected settings such as lr=0.1 or lr=0.1/1, got 'lr'"),
        ("adam:lr=", "Expected settings such as"),
        ("adam:lr=1:lr=2", "every setting once, got learning_rate twice"),
        ("adam:lr=1/1.0", "every value of learning_rate once"),
        (
            "kfac:lr=none/0.1",
            r"Expected numbers as the values of learning_rate .*got \[None, 0.1\]: leave",
        ),
        ("hf:damping=0.1/big", r"Expected numbers as the values of damping .*got \[0.1, 'big'\]"),
        ("meta", "needs a meta_ckpt"),
        ("adam,ADAM", "which would both be called 'Adam'"),
        (" , ", "Expected optimizers among"),
        ("adam:beta_1=high", "Expected a number as beta_1, got 'high' in 'adam:beta_1=high'"),
        ("adam:epsilon=true", "Expected a number as epsilon, got True"),
        ("sgd:nesterov=abc", "Expected nesterov=true or nesterov=false, got 'abc'"),
    ],
)
def test_what_is_not_understood(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_all(text)


def test_a_value_that_makes_no_sense_is_told_with_the_text():
    with pytest.raises(ValueError, match="Expected cg_iterations to be .* got 0 in 'hf:cg=0'"):
        parse("hf:cg=0").make({"learning_rate": 1.0})
