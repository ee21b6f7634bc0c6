"""Muon with a length from curvature, against NumPy from the mathematics alone."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.objective import inner
from tests.contract import batch, objective, quadratic, start

DECAY = 0.05
HORIZON = 14


def direction(m):
    """The polar factor's approximation after five Newton-Schulz iterations."""
    wide = m.shape[0] < m.shape[1]
    x = m.T if wide else m
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x.T @ x
        x = 3.4445 * x - x @ (4.7750 * gram - 2.0315 * gram @ gram)
    return 0.2 * max(m.shape) ** 0.5 * (x.T if wide else x)


def in_numpy(steps, scale=0.3, gain=0.7, every=3, share=0.5):
    """The rule on `tests.contract`'s quadratic; yields kernel, bias and rate after each step."""
    x, y = (array.numpy() for array in batch(tf.float64))
    kernel, bias = np.zeros((4, 2)), np.zeros(2)
    m, n, v = np.zeros((4, 2)), np.zeros(2), np.zeros(2)
    u, w, rate, base = m, n, 0.0, 0.0
    part = x[: round(share * len(x))]
    sums, last, newest, predicted, fallen = np.zeros(3), None, 0.0, 0.0, 0.0
    for t in range(1, steps + 1):
        residual = x @ kernel + bias - y
        loss = (residual**2).sum() / 2 / len(x)
        loss += DECAY / 2 * ((kernel**2).sum() + (bias**2).sum())
        g = x.T @ residual / len(x) + DECAY * kernel
        h = residual.sum(0) / len(x) + DECAY * bias
        if t == 1:
            first_loss = mean_loss = loss
        else:
            ahead = (g * u).sum() + (h * w).sum()
            if last is not None:
                sums += (t - 1) ** 3 * np.array([ahead + rate * last[1], *last])
            predicted += rate * (ahead + rate * newest / 2)
            new = 1 / max(3, t / 5)
            mean_loss += new * (loss - mean_loss)
            fallen += new * (predicted - fallen)
        m, n, v = 0.9 * m + 0.1 * g, 0.9 * n + 0.1 * h, 0.999 * v + 0.001 * h * h
        u = direction(0.9 * m + 0.1 * g)
        w = n / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        signal = min(1, sums[0] / sums[1]) if t > 1 else 1.0
        slopes, curvatures, last = *sums[1:], None
        if t <= 10 or t % every == 0:
            newest = ((part @ u + w) ** 2).sum() / len(part)
            newest += DECAY * ((u * u).sum() + (w * w).sum())
            last = (g * u).sum() + (h * w).sum(), newest
            slopes, curvatures = slopes + t**3 * last[0], curvatures + t**3 * last[1]
        if t <= 10:
            most = 2 * loss / ((g * u).sum() + (h * w).sum())
            base = scale * (t / 10) ** 0.5 * min(signal * slopes / curvatures, most)
        else:
            ratio = (first_loss - mean_loss) / fallen
            change = np.clip(np.log(ratio / 0.6) / np.log(1 / 0.6), -1, 1)
            base *= np.exp(gain / t * (change + 8 * np.clip(ratio - 1, 0, 0.5)))
        rate = base * max(0, 1 - (t - 1) / HORIZON)
        kernel, bias = kernel - rate * u, bias - rate * w
        yield kernel, bias, rate


def make(**settings):
    return mlhf.CurvatureMuon(
        HORIZON, scale=0.3, gain=0.7, every=3, curvature_share=0.5, **settings
    )


def with_decay(seed=0):
    return mlhf.Objective(
        quadratic, "squared_error", *batch(tf.float64, seed), regularizer=mlhf.L2(DECAY)
    )


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_equals_the_formula(mode):
    optimizer = make(jit_compile=mode == "xla")
    parameters = start(tf.float64)
    state = optimizer.init(parameters)
    numbers = {"scale": tf.constant(0.3, tf.float64), "gain": tf.constant(0.7, tf.float64)}
    # An eager step traces its network at each product.
    steps = 3 if mode == "eager" else 15
    for kernel, bias, rate in in_numpy(steps):
        if mode == "eager":
            parameters, state, _, metrics = optimizer._step(
                with_decay(), parameters, state, numbers
            )
        else:
            parameters, state, _, metrics = optimizer.step(with_decay(), parameters, state)
        np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-9)
        np.testing.assert_allclose(parameters["dense"]["kernel"], kernel, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(parameters["dense"]["bias"], bias, rtol=1e-9, atol=1e-12)
    assert int(state.step) == steps


def test_the_first_full_step_minimises_the_loss_along_its_direction():
    # The first of the ten steps that rise takes √(1/10) of the length.
    optimizer = mlhf.CurvatureMuon(20, scale=10**0.5, curvature_share=1.0)
    before = start(tf.float64)
    step = optimizer.step(objective(tf.float64), before, optimizer.init(before))
    moved = tf.nest.map_structure(tf.subtract, before, step.parameters)
    gradient = objective(tf.float64).linearize(step.parameters).gradient()
    pairs = zip(tf.nest.flatten(gradient), tf.nest.flatten(moved), strict=True)
    slope = sum(float(tf.reduce_sum(a * b)) for a, b in pairs)
    decrease = float(step.metrics["loss"] - objective(tf.float64).data_loss(step.parameters))
    assert decrease > 0.1 and abs(slope) < 1e-10 * decrease


def test_outputs_that_are_saturated_bound_the_first_steps():
    """Softmax of large outputs has next to no curvature; a step by it alone is a leap."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(256, 8)))
    y = tf.constant(random.integers(0, 3, 256))
    w = {
        "a/kernel": tf.constant(random.normal(size=(8, 32)) * 4),
        "b/kernel": tf.constant(random.normal(size=(32, 3)) * 4),
    }

    def network(w, x):
        return tf.nn.relu(x @ w["a/kernel"]) @ w["b/kernel"]

    optimizer = mlhf.CurvatureMuon(60)
    state, losses, norms = optimizer.init(w), [], []
    for step in range(20):
        rows = slice(32 * (step % 8), 32 * (step % 8) + 32)
        objective = mlhf.Objective(network, "softmax_cross_entropy", x[rows], y[rows])
        w, state, _, metrics = optimizer.step(objective, w, state)
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["step_norm"]))
    assert max(losses) < 1.5 * losses[0] and losses[-1] < 0.8 * losses[0]


def test_falls_to_zero_at_the_horizon():
    optimizer = mlhf.CurvatureMuon(2)
    parameters = start(tf.float64)
    state = optimizer.init(parameters)
    moved = []
    for _ in range(4):
        parameters, state, _, metrics = optimizer.step(objective(tf.float64), parameters, state)
        moved.append(float(metrics["step_norm"]))
    assert moved[0] > moved[1] > 0 == moved[2] == moved[3]


def test_the_network_runs_once_a_step_and_once_more_where_curvature_is_measured():
    runs = []

    def note(inputs):
        runs.append(len(inputs))
        return inputs

    def network(parameters, inputs):
        noted = tf.numpy_function(note, [inputs], inputs.dtype)
        return quadratic(parameters, tf.ensure_shape(noted, inputs.shape))

    optimizer = mlhf.CurvatureMuon(20, every=4, curvature_share=0.25)
    parameters = start(tf.float64)
    state = optimizer.init(parameters)
    counts = []
    for _ in range(16):
        runs.clear()
        parameters, state, _, metrics = optimizer.step(
            mlhf.Objective(network, "squared_error", *batch(tf.float64)), parameters, state
        )
        counts.append(sorted(runs))
        assert (float(metrics["curvature"]) > 0) == (len(runs) == 2)
    assert counts == [[4, 16]] * 10 + [[16], [4, 16], [16], [16], [16], [4, 16]]


def test_the_next_batch_tells_the_slope_without_noise():
    """On 2 examples of 64 at a time, the sums against the slopes of the whole data."""
    random = np.random.default_rng(3)
    x = random.normal(size=(64, 4))
    y = x @ random.normal(size=(4, 2)) + 3 * random.normal(size=(64, 2))
    optimizer = mlhf.CurvatureMuon(200, scale=0.3, every=1, curvature_share=1.0)
    parameters = start(tf.float64)
    state = optimizer.init(parameters)
    true, noisy, signals = [], [], []

    @tf.function(autograph=False)
    def slope(parameters, direction):
        whole = mlhf.Objective(quadratic, "squared_error", x, y)
        return inner(whole.linearize(parameters).gradient(), direction)

    for _ in range(120):
        chosen = random.choice(64, 2, replace=False)
        data = mlhf.Objective(quadratic, "squared_error", x[chosen], y[chosen])
        before, (parameters, state, _, metrics) = (
            parameters,
            optimizer.step(data, parameters, state),
        )
        true.append(float(slope(before, state.direction)))
        noisy.append(float(metrics["slope"]))
        signals.append(float(state.measurements.signal))
    # A step's slope enters the sum at the next one, with its weight.
    estimates = np.diff(signals) / np.arange(1, len(signals)) ** 3
    errors = estimates - true[:-1]
    deviation = np.std(errors) / np.sqrt(len(errors))
    assert abs(np.mean(errors)) < 3 * deviation
    assert np.mean(noisy[:-1]) > np.mean(true[:-1]) + 6 * deviation


def test_a_batch_that_is_not_finite_moves_nothing():
    optimizer = mlhf.CurvatureMuon(20)
    parameters = start(tf.float64)
    state = optimizer.init(parameters)
    first = optimizer.step(objective(tf.float64), parameters, state)
    x, y = batch(tf.float64)
    bad = mlhf.Objective(quadratic, "squared_error", x * float("nan"), y)
    second = optimizer.step(bad, first.parameters, first.state)
    for a, b in zip(tf.nest.flatten(first[:2]), tf.nest.flatten(second[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("horizon", 0),
        ("horizon", 10.5),
        ("scale", 0),
        ("gain", -1),
        ("every", 0),
        ("curvature_share", 0),
        ("momentum", 1),
        ("beta_2", 1),
        ("beta_1", -0.1),
        ("epsilon", -1),
        ("iterations", -1),
    ],
)
def test_refuses_bad_arguments_at_construction(name, value):
    with pytest.raises(ValueError, match=f"^Expected {name} to be .*, got {value!r}"):
        mlhf.CurvatureMuon(**{"horizon": 10, name: value})
