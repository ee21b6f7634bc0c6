"""The controller of a step: nothing at neutral weights, and what its outputs do."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer import step_controller
from mlhf.meta_optimizer.meta_muon import MetaMuon

HORIZON = 12
_random = np.random.default_rng(4)
X = _random.normal(size=(64, 6)).astype("f")
Y = (np.sin(X @ _random.normal(size=(6, 3))) + 0.1).astype("f")


def network(w, x):
    hidden = tf.tanh(x @ w["a/kernel"] + w["a/bias"])
    return tf.tanh(hidden @ w["b/kernel"]) @ w["c/kernel"]


def start():
    random = np.random.default_rng(5)
    shapes = {"a/kernel": (6, 8), "a/bias": (8,), "b/kernel": (8, 8), "c/kernel": (8, 3)}
    return {
        name: tf.constant(random.normal(size=shape) / np.sqrt(shape[0]), tf.float32)
        for name, shape in shapes.items()
    }


def train(optimizer, steps=8, targets=Y, compiled=False):
    """Yields parameters, state and metrics after each step."""
    step = tf.function(optimizer.step, autograph=False) if compiled else optimizer.step
    w = start()
    state = optimizer.init(w)
    for number in range(steps):
        rows = slice(16 * (number % 4), 16 * (number % 4) + 16)
        objective = mlhf.Objective(network, "squared_error", X[rows], targets[rows])
        w, state, _, metrics = step(objective, w, state)
        yield w, state, metrics


def last(optimizer, **settings):
    return list(train(optimizer, **settings))[-1]


def with_bias(optimizer, kind, value):
    """Sets a kind's output to a number whatever it sees."""
    lengths = optimizer.weights.lengths.copy()
    lengths[step_controller.KINDS.index(kind), 0] = value
    optimizer.weights = optimizer.weights._replace(lengths=lengths)
    return optimizer


@pytest.mark.parametrize("compiled", [False, True])
def test_neutral_weights_leave_the_rule_as_it_is(compiled):
    controlled = last(MetaMuon(HORIZON, weights="neutral"), compiled=compiled)[0]
    plain = last(mlhf.CurvatureMuon(HORIZON), compiled=compiled)[0]
    for name, value in plain.items():
        np.testing.assert_allclose(controlled[name], value, rtol=2e-5, atol=1e-6)


def test_the_lstm_has_a_state_that_changes():
    states = [
        state.controller.lstm.numpy() for _, state, _ in train(MetaMuon(HORIZON, weights="neutral"))
    ]
    assert states[0].shape == (5, 4 * step_controller.UNITS)
    assert np.all(np.abs(states[-1] - states[0]).max(1) > 1e-3)


def test_a_longer_step_of_one_kind():
    def step(optimizer):
        w, _, metrics = next(train(optimizer))
        return {name: (w[name] - start()[name]).numpy() for name in w}, metrics

    plain, before = step(MetaMuon(HORIZON, weights="neutral"))
    factor = np.exp(2 * np.tanh(0.5 / 2))
    doubled, metrics = step(with_bias(MetaMuon(HORIZON, weights="neutral"), "step", 0.5))
    np.testing.assert_allclose(
        metrics["learning_rate"], factor * before["learning_rate"], rtol=1e-5
    )
    for name, value in plain.items():
        np.testing.assert_allclose(doubled[name], factor * value, rtol=1e-3, atol=1e-7)
    # The length of the whole is measured along the new direction.
    first, metrics = step(with_bias(MetaMuon(HORIZON, weights="neutral"), "first", 0.5))
    common = metrics["learning_rate"] / before["learning_rate"]
    assert abs(float(common) - 1) > 1e-3
    for name, value in plain.items():
        own = factor if name == "a/kernel" else 1.0
        np.testing.assert_allclose(first[name], own * common * value, rtol=1e-3, atol=1e-7)


def test_a_controller_makes_no_step_much_longer_than_the_last():
    plain = [float(m["learning_rate"]) for *_, m in train(MetaMuon(HORIZON, weights="neutral"))]
    weights = MetaMuon(HORIZON, weights="neutral").weights
    lengths = weights.lengths.copy()
    # Nothing at the first step and e² later: t/T is seen from -1 to 1.
    lengths[0, :2] = 10, 10
    longer = MetaMuon(HORIZON, weights=weights._replace(lengths=lengths))
    rates = [float(m["learning_rate"]) for *_, m in train(longer)]
    np.testing.assert_allclose(rates[0], plain[0], rtol=1e-4)
    np.testing.assert_allclose(rates[1], 1.4 * rates[0], rtol=1e-4)


def test_momentum_is_steadier_or_quicker():
    def kept(value):
        optimizer = MetaMuon(HORIZON, weights="neutral")
        momentum = optimizer.weights.momentum.copy()
        momentum[0] = value
        optimizer.weights = optimizer.weights._replace(momentum=momentum)
        state = next(train(optimizer))[1].rule
        # The average began at zero: m = (1 - μ) g.
        return np.linalg.norm(state.momentum["b/kernel"])

    quick, plain, steady = kept(-0.4), kept(0.0), kept(0.4)
    assert quick > 1.3 * plain and steady < 0.75 * plain


def test_a_batch_that_is_not_finite_is_forgotten():
    optimizer = MetaMuon(HORIZON, weights="neutral")
    w, state, _ = last(optimizer, steps=3)
    objective = mlhf.Objective(network, "squared_error", X[:16], Y[:16] * np.nan)
    step = optimizer.step(objective, w, state)
    old, new = tf.nest.flatten((w, state)), tf.nest.flatten((step.parameters, step.state))
    for before, after in zip(old, new, strict=True):
        np.testing.assert_array_equal(before, after)


def test_new_weights_hold_in_steps_that_are_compiled():
    optimizer = MetaMuon(HORIZON, weights="neutral")
    step = tf.function(optimizer.step, autograph=False)
    w = start()
    objective = mlhf.Objective(network, "squared_error", X, Y)
    before = step(objective, w, optimizer.init(w)).metrics["learning_rate"]
    with_bias(optimizer, "step", -1.0)
    after = step(objective, w, optimizer.init(w)).metrics["learning_rate"]
    np.testing.assert_allclose(after / before, np.exp(2 * np.tanh(-0.5)), rtol=1e-5)


def what_rows_see(scale, monkeypatch, horizon=HORIZON):
    """Returns what rows see at three steps, and the parameters, u and η that they see it of."""
    seen, of_steps, lstm = [], [], step_controller._lstm

    def noted(weights, inputs, state):
        seen.append(inputs.numpy()[:, len(step_controller.KINDS) :])
        return lstm(weights, inputs, state)

    optimizer = MetaMuon(horizon, weights="neutral")
    w = start()
    state = optimizer.init(w)
    with monkeypatch.context() as patched:
        patched.setattr(step_controller, "_lstm", noted)
        for rows in (slice(0, 16), slice(16, 32), slice(32, 48)):
            of_steps.append((w, state.rule.direction, state.rule.measurements.last_rate))
            weights = np.full(16, scale, "f")
            objective = mlhf.Objective(network, "squared_error", X[rows], Y[rows], weights=weights)
            w, state, *_ = optimizer.step_in(objective, w, state, optimizer.weights)
    return seen, of_steps


def test_what_rows_see_of_their_last_step(monkeypatch):
    seen, of_steps = what_rows_see(1.0, monkeypatch)
    change, size = step_controller.COMMON + 2, step_controller.COMMON + 3
    assert np.all(seen[0][:, change] == 0)
    w, direction, rate = of_steps[2]
    for place, name in enumerate(sorted(w), 1):
        moved, norm = rate * np.linalg.norm(direction[name]), np.linalg.norm(w[name])
        expected = (np.log(moved / (moved + norm)) + 4) / 2
        np.testing.assert_allclose(seen[2][place, change], expected, rtol=1e-4)
        count = w[name].numpy().size
        np.testing.assert_allclose(seen[2][place, size], np.log(count / 4096) / 4, rtol=1e-5)


def test_what_rows_see_does_not_hang_on_the_scale_of_the_loss(monkeypatch):
    plain, scaled = (what_rows_see(scale, monkeypatch)[0] for scale in (1.0, 64.0))
    for before, after in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(after, before, rtol=2e-3, atol=2e-4)
    # The rate beside what the curvature of the first steps said.
    assert plain[2][0, 8] != 0


def test_a_horizon_that_nothing_was_learned_on_counts_as_the_nearest(monkeypatch):
    far, near, other = (what_rows_see(1.0, monkeypatch, T)[0][0] for T in (10**6, 1000, 100))
    np.testing.assert_array_equal(far[:, 2], near[:, 2])
    assert np.all(near[:, 2] > other[:, 2])
