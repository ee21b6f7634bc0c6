"""Martens' Hessian-free against a transcription in NumPy with dense matrices."""

import math

import numpy as np
import pytest
import tensorflow as tf

import custom_op
import mlhf

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(12, 6)) * np.geomspace(0.3, 2, 6)
Y = RANDOM.integers(0, 3, 12)
START = {"a": tf.constant(RANDOM.normal(size=(6, 8))), "b": tf.constant(RANDOM.normal(size=(8, 3)))}
DECAY = 1e-3
SIZE = 6 * 8 + 8 * 3


def network(parameters, inputs):
    return tf.tanh(inputs @ parameters["a"]) @ parameters["b"]


def objective(count=12):
    return mlhf.Objective(
        network, "softmax_cross_entropy", X[:count], Y[:count], regularizer=mlhf.L2(DECAY)
    )


def unflat(w):
    return {"a": tf.constant(w[:48].reshape(6, 8)), "b": tf.constant(w[48:].reshape(8, 3))}


def flat(parameters):
    return np.concatenate([np.ravel(parameters[name]) for name in ("a", "b")])


def value(w):
    return float(objective().linearize(unflat(w)).value)


def transcription(w, last, damping, starts, *, limit, epsilon, share, warm, factor):
    """One step, as the paper says it, but for the start; `starts` gets what φ likes best."""
    gradient = flat(objective().linearize(unflat(w)).gradient())
    count = round(12 * share)
    dense = custom_op.gauss_newton(
        lambda p: network(p, tf.constant(X[:count])),
        unflat(w),
        "softmax_cross_entropy",
        tf.constant(Y[:count]),
    ).to_dense()
    matrix = dense.numpy() + (DECAY + damping) * np.eye(SIZE)

    def model(x):
        return x @ matrix @ x / 2 - gradient @ x

    curved = last @ matrix @ last
    x = np.clip(last @ gradient / curved, 0, warm) * last if curved > 0 else last
    starts.append(curved > 0 and last @ gradient / curved)
    r = gradient - matrix @ x
    p, models, iterates = r, [model(x)], [x]
    while len(models) - 1 < limit:
        i = len(models) - 1
        k = max(10, math.ceil(0.1 * i))
        if i > k and models[i] < 0 and (models[i] - models[i - k]) / models[i] < k * epsilon:
            break
        alpha = r @ r / (p @ matrix @ p)
        x, new = x + alpha * p, r - alpha * matrix @ p
        p, r = new + new @ new / (r @ r) * p, new
        models.append(model(x))
        iterates.append(x)
    used = len(models) - 1
    numbers = sorted({math.ceil(1.3**j) for j in range(60) if math.ceil(1.3**j) < used})
    chosen = used
    while numbers and value(w - iterates[numbers[-1]]) <= value(w - iterates[chosen]):
        chosen = numbers.pop()
    step, now = iterates[chosen], value(w)
    # A model that predicts no fall is not to be trusted.
    ratio = (value(w - step) - now) / models[chosen] if models[chosen] < 0 else 0
    rate = 1.0
    while value(w - rate * step) > now - 1e-2 * rate * gradient @ step:
        rate *= 0.8
    damping *= factor if ratio > 0.75 else 1 / factor if ratio < 0.25 else 1
    return w - rate * step, x, damping, (used, chosen, rate, ratio)


SETTINGS = {
    # A small damping and a tight tolerance: iterates overshoot, so that it goes back.
    "tight": dict(damping=0.01, limit=12, epsilon=5e-4, share=1.0, warm=0.95, factor=2 / 3),
    # Steps so short that the last one is a good start for the next.
    "slow": dict(damping=8.0, limit=1, epsilon=5e-4, share=1.0, warm=0.95, factor=0.1),
    "on a part": dict(damping=0.05, limit=30, epsilon=0.05, share=0.75, warm=0.5, factor=0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_the_paper(name):
    settings = dict(SETTINGS[name])
    damping = settings.pop("damping")
    optimizer = mlhf.MartensHessianFree(
        damping,
        settings["limit"],
        cg_tolerance=settings["epsilon"],
        warm_start=settings["warm"],
        curvature_share=settings["share"],
        decay=settings["factor"],
    )
    parameters, state = START, optimizer.init(START)
    seen, starts = [], []
    for _ in range(4):
        # From where the optimizer stands: roundings in conjugate gradients grow from step to step.
        w, last = flat(parameters), state.solution.numpy()[:SIZE]
        parameters, state, _, metrics = optimizer.step(objective(), parameters, state)
        w, last, damping, (used, chosen, rate, ratio) = transcription(
            w, last, damping, starts, **settings
        )
        assert int(metrics["cg_iterations"]) == used
        assert int(metrics["backtracked"]) == chosen
        assert float(metrics["learning_rate"]) == pytest.approx(rate)
        assert float(metrics["ratio"]) == pytest.approx(ratio, rel=1e-5)
        assert float(state.damping) == pytest.approx(damping)
        np.testing.assert_allclose(flat(parameters), w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.solution[:SIZE], last, rtol=1e-3, atol=1e-3)
        seen.append((used, chosen, rate))
    # Each of its parts has something to do.
    if name == "slow":
        assert any(0 < best < 0.95 for best in starts) and any(best > 0.95 for best in starts)
        return
    assert any(best < 0 for best in starts)
    if name == "tight":
        assert any(chosen < used for used, chosen, _ in seen)
        assert any(rate < 1 for _, _, rate in seen)
    if name == "on a part":
        assert all(10 < used < 30 for used, _, _ in seen)


def test_the_start_is_never_worse_than_zero_on_another_batch():
    """With a last solution that points up the hill nothing is left of it after one iteration."""
    optimizer = mlhf.MartensHessianFree(1e-3, 1, damping_type="regular")
    gradient = objective().linearize(START).gradient()
    fresh = optimizer.init(START)
    wrong = -100 * tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(gradient)], 0)
    padded = tf.concat([wrong, tf.zeros([fresh.solution.shape[0] - SIZE], wrong.dtype)], 0)
    first = optimizer.step(objective(), START, fresh)
    second = optimizer.step(objective(), START, fresh._replace(solution=padded))
    np.testing.assert_allclose(flat(second.parameters), flat(first.parameters), rtol=1e-12)


def test_the_damping_can_grow_again():
    """Where the model is exact it shrinks, but not below what it can come back from."""

    def linear(parameters, inputs):
        return inputs @ parameters["w"]

    start = {"w": tf.ones([2, 1], tf.float64)}
    target = mlhf.Objective(linear, "squared_error", np.eye(2), np.zeros([2, 1]))
    for damping, expected in ((1e-8, 1e-8), (1e-6, 2e-6 / 3)):
        optimizer = mlhf.MartensHessianFree(damping)
        step = optimizer.step(target, start, optimizer.init(start))
        assert float(step.metrics["ratio"]) == pytest.approx(1, rel=1e-5)
        assert float(step.state.damping) == pytest.approx(expected)


def test_where_no_step_lowers_the_loss_none_is_taken():
    def wall(parameters, inputs):
        # Finite at the start only.
        w = parameters["w"]
        return inputs @ w + tf.where(tf.reduce_any(w != 1), tf.constant(np.nan, w.dtype), 0)

    start = {"w": tf.ones([2, 1], tf.float64)}
    target = mlhf.Objective(wall, "squared_error", np.eye(2), np.zeros([2, 1]))
    optimizer = mlhf.MartensHessianFree(0.1)
    step = optimizer.step(target, start, optimizer.init(start))
    np.testing.assert_array_equal(step.parameters["w"], start["w"])
    assert float(step.metrics["learning_rate"]) == 0
    assert float(step.state.damping) == pytest.approx(0.15)  # and trusts its model less


def test_a_batch_with_what_is_not_a_number_takes_no_step_and_leaves_no_trace():
    targets = np.eye(3)[Y]
    broken = targets.copy()
    broken[0, 0] = np.nan
    optimizer = mlhf.MartensHessianFree(0.1, 5)
    parameters, state = START, optimizer.init(START)
    for batch in (targets, broken, targets):
        before, solution = flat(parameters), state.solution.numpy()
        objective = mlhf.Objective(network, "squared_error", X, batch)
        parameters, state, _, metrics = optimizer.step(objective, parameters, state)
        assert np.all(np.isfinite(state.solution))
        if batch is broken:
            np.testing.assert_array_equal(flat(parameters), before)
            assert float(metrics["learning_rate"]) == 0
        else:
            assert float(metrics["learning_rate"]) > 0
            assert np.any(flat(parameters) != before)
            assert np.any(state.solution != solution)


@pytest.mark.parametrize(
    "name, value",
    [
        ("damping", -1),
        ("cg_iterations", 0),
        ("cg_tolerance", -1),
        ("warm_start", 1.5),
        ("curvature_share", 0),
        ("damping_type", "LM"),
        ("decay", 1),
    ],
)
def test_bad_arguments_are_refused_at_construction(name, value):
    with pytest.raises(ValueError, match=f"^Expected {name} to be .*, got {value!r}"):
        mlhf.MartensHessianFree(**{name: value})
