"""What a problem accepts, refuses, and replays."""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg
from mlhf.hypergrad.binding import bind
from tests.mlhf.hypergrad.small_problem import WEIGHTS, D, distance, make


def test_noise_that_is_drawn_again_is_found():
    def noisy(w, h, step):
        keep = tf.random.uniform([3], dtype=D) > 0.5
        return tf.reduce_sum(h["l2"] * tf.where(keep, w["w"], 0) ** 2)

    with pytest.raises(RuntimeError, match="no pure function of its step"):
        hg.reverse(make(noisy), WEIGHTS, {"l2": 0.3})

    noise = np.random.default_rng(0).normal(size=3)
    frozen = make(initial=lambda h: {"w": h["scale"] * noise})
    hyper = {"scale": 1.3, "l2": 0.2}
    result = hg.reverse(frozen, None, {name: np.array(v) for name, v in hyper.items()})

    def end(scale):
        w = scale * noise
        for _ in range(4):
            w = w - 0.1 * (0.4 * w + np.cos(w))
        return np.sum((w - 1) ** 2)

    expected = (end(1.3 + 1e-5) - end(1.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(result.hypergradient["scale"], expected, rtol=1e-6)
    drawn = make(initial=lambda h: {"w": h["scale"] * tf.random.normal([3], dtype=D)})
    with pytest.raises(RuntimeError, match="its noise must be frozen"):
        hg.reverse(drawn, WEIGHTS, {"scale": 1.3, "l2": 0.2})


def test_a_seed_reaches_all_that_asks_for_it():
    def loss(w, h, step, seed):
        noise = tf.random.stateless_normal([3], tf.stack([seed, step]), dtype=D)
        return tf.reduce_sum(h["l2"] * (w["w"] - noise) ** 2)

    problem = make(loss)
    one, two, again = (
        hg.reverse(problem, WEIGHTS, {"l2": 0.3}, seed=seed).hypergradient["l2"]
        for seed in (1, 2, 1)
    )
    assert one == again and one != two


def test_different_hyperparameters_follow_different_losses():
    def other(w, h):
        return tf.reduce_sum(w["w"] ** 3)

    hyper = {"l2": 0.1, "learning_rate": 0.1}
    alone = {
        name: hg.reverse(make(outer=loss), WEIGHTS, hyper).hypergradient
        for name, loss in (("distance", distance), ("other", other))
    }
    losses = {"other": other, "distance": distance}
    split = hg.reverse(
        make(outer=losses, follows={"l2": "other", "learning_rate": ["distance"]}), WEIGHTS, hyper
    )
    np.testing.assert_allclose(split.hypergradient["l2"], alone["other"]["l2"], rtol=1e-13)
    np.testing.assert_allclose(
        split.hypergradient["learning_rate"], alone["distance"]["learning_rate"], rtol=1e-13
    )
    assert set(split.valid_loss) == set(split.adjoint_norm) == {"distance", "other"}
    weighted = make(outer=losses, aggregation=lambda g: 2 * g["other"] - g["distance"])
    for method in (hg.reverse, hg.forward):
        found = method(weighted, WEIGHTS, hyper).hypergradient
        for name in hyper:
            expected = 2 * alone["other"][name] - alone["distance"][name]
            np.testing.assert_allclose(found[name], expected, rtol=1e-12)
    with pytest.raises(ValueError, match="follows"):
        make(outer=losses, follows={"l2": "third"})
    with pytest.raises(ValueError, match="Only .'other'. depends on it"):
        outer = {"other": lambda w, h: other(w, h) + h["k"], "distance": distance}
        hg.reverse(make(outer=outer, follows={"k": "distance"}), WEIGHTS, {"k": 0.1, "l2": 0.1})


def test_several_inner_problems():
    problem, hyper = make(), {"l2": 0.1}
    other = {"w": tf.constant([1.0, 0.3, -0.4], D)}
    found = hg.several(hg.reverse, [problem, problem], [WEIGHTS, other], hyper)
    parts = [hg.reverse(problem, w, hyper) for w in (WEIGHTS, other)]
    gradients = [part.hypergradient["l2"] for part in parts]
    losses = [part.valid_loss for part in parts]
    np.testing.assert_allclose(found.hypergradient["l2"], np.mean(gradients), rtol=1e-14)
    np.testing.assert_allclose(found.valid_loss, np.mean(losses), rtol=1e-14)
    for aggregation, gradient, loss in [("sum", np.sum, np.sum), (tf.reduce_max, np.max, np.mean)]:
        found = hg.several(
            hg.reverse, [problem, problem], [WEIGHTS, other], hyper, aggregation=aggregation
        )
        np.testing.assert_allclose(found.hypergradient["l2"], gradient(gradients), rtol=1e-14)
        np.testing.assert_allclose(found.valid_loss, loss(losses), rtol=1e-14)
    with pytest.raises(ValueError, match="as many weights as problems"):
        hg.several(hg.reverse, [problem], [], hyper)


def test_inside_a_tf_function_and_from_every_storage():
    problem = make(steps=7)
    hyper = {"l2": tf.constant(0.1, D), "learning_rate": tf.constant(np.full(7, 0.1))}
    expected = hg.reverse(problem, WEIGHTS, hyper)

    @tf.function
    def inside(l2):
        results = [
            hg.reverse(problem, WEIGHTS, {**hyper, "l2": l2}),
            hg.reverse(problem, WEIGHTS, {**hyper, "l2": l2}, storage="checkpoints"),
            hg.forward(problem, WEIGHTS, {**hyper, "l2": l2}),
        ]
        return [(r.hypergradient, r.weights) for r in results]

    found = inside(hyper["l2"])
    for storage in ("checkpoints", "disk"):
        result = hg.reverse(problem, WEIGHTS, hyper, storage=storage)
        np.testing.assert_array_equal(result.train_loss, expected.train_loss)
        found.append((result.hypergradient, result.weights))
    for gradient, weights in found:
        np.testing.assert_array_equal(weights["w"], expected.weights["w"])
        for name in hyper:
            np.testing.assert_allclose(gradient[name], expected.hypergradient[name], rtol=1e-12)
    with pytest.raises(ValueError, match="outside a tf.function"):
        tf.function(lambda: hg.reverse(problem, WEIGHTS, hyper, storage="disk").valid_loss)()
    with pytest.raises(ValueError, match="storage="):
        hg.reverse(problem, WEIGHTS, hyper, storage="tape")


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"learning_rate of GradientDescent within \[0.0, inf\)"):
        hg.reverse(make(), WEIGHTS, {"l2": 0.1, "learning_rate": -0.1})
    with pytest.raises(ValueError, match="momentum of Momentum"):
        hg.Momentum(momentum=1.0)
    with pytest.raises(ValueError, match="form="):
        hg.Momentum(form="heavy")
    with pytest.raises(ValueError, match="positive epsilon_root"):
        hg.Adam(epsilon_root=0.0)
    with pytest.raises(ValueError, match="GradientDescent has no velocity"):
        hg.reverse(make(), WEIGHTS, {"l2": 0.1, "initial_velocity": WEIGHTS})
    with pytest.raises(TypeError, match="'l2' floating, got int32"):
        hg.reverse(make(), WEIGHTS, {"l2": np.array([1], np.int32)})
    with pytest.raises(TypeError, match="learning_rate.*float64, got float32"):
        hg.reverse(make(), WEIGHTS, {"l2": 0.1, "learning_rate": tf.constant(0.1)})
    with pytest.raises(ValueError, match="at least one hyperparameter"):
        hg.reverse(make(), WEIGHTS, {})
    with pytest.raises(ValueError, match="weights to begin with"):
        hg.reverse(make(), None, {"l2": 0.1})
    with pytest.raises(ValueError, match="steps to be a positive integer"):
        make(steps=0)
    with pytest.raises(ValueError, match=r"return a floating scalar.*take its mean"):
        hg.reverse(make(lambda w, h, step: h["l2"] * w["w"] ** 2), WEIGHTS, {"l2": 0.1})
    with pytest.raises(ValueError, match="does not depend on the weights"):
        hg.reverse(make(lambda w, h, step: h["l2"] ** 2), WEIGHTS, {"l2": 0.1})
    extra = {**WEIGHTS, "idle": tf.ones([2], D)}
    with pytest.warns(UserWarning, match="idle.*keep their first values"):
        bind(make(), extra, {"l2": 0.1})


def test_costs_are_told_beforehand():
    problem = make(lambda w, h, step: h["l2"] * tf.reduce_sum(w["w"] ** 2), steps=100)
    hyper = {"l2": 0.1, "learning_rate": 0.1}
    found = hg.estimate(problem, WEIGHTS, hyper)
    a_state = 3 * 8
    assert found["reverse"].memory == 100 * a_state
    assert found["reverse, checkpoints"].memory == 30 * a_state
    assert found["reverse, disk"].memory == 40 * a_state
    assert found["forward"].memory == 2 * a_state and found["forward"].time == 300
    assert found["truncated"].memory == 100 * a_state
    assert "reversible" not in found and "learning_rate" in found["implicit"].note
    assert found["implicit"].time == 100 + 2 * 22  # no batches: a product is one of the loss
    assert str(found).splitlines()[1].startswith("reverse") and "2.4 kB" in str(found)
    momentum = make(dynamics=hg.Momentum(0.1, 0.5), steps=100)
    assert hg.estimate(momentum, WEIGHTS, {"l2": 0.1})["reversible"].memory == int(
        3 * (64 + 100 / 8)
    )
