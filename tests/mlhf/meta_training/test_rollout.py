"""Rollouts and the meta-gradient against NumPy: the surrogate's derivative by complex steps."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_training import adam
from mlhf.meta_training import meta_step as meta_steps
from mlhf.meta_training.rollout import Carry, Rollout
from tests.mlhf import reference

SEED = (5, 7)
# By name: the arguments of the optimizer that say what is learned.
RULES = {
    "x rnn rnn": {},
    "rnn rnn rnn": {"x_use": "rnn"},
    "d rnn rnn": {"x_use": "d"},
    "x none rnn": {"y_use": "none"},
    "x rnn none": {"d_use": "none", "damping": 0.1},
    "rnn none none": {"x_use": "rnn", "y_use": "none", "d_use": "none", "damping": 0.1},
    "x rnn rnn, LM": {"damping_type": "LM_heuristics", "damping": 0.3},
    "x rnn rnn, LM and long": {"damping_type": "LM_heuristics", "damping": 0.3},
    "x rnn rnn, on a half": {"curvature_share": 0.5},
    "x rnn rnn, a third of the damping": {"damping_scale": 0.3},
    "x rnn rnn, by the rms": {"input_scale": "rms"},
    "rnn rnn rnn, by the rms": {"input_scale": "rms", "x_use": "rnn"},
    "rnn rnn rnn, no residual": {"inputs": "gx", "x_use": "rnn"},
    "x rnn rnn, the residual by its rms": {"inputs": "r", "input_scale": "rms"},
}
# So fast that steps are longer than a quarter of the weights.
RATES = {"rnn rnn rnn": 4.0, "x rnn rnn, LM and long": 8.0}


def noise(setup, t):
    """ν_t: 24 random bits a coordinate, from two seeds the second of which counts the steps."""
    bits = tf.random.stateless_uniform(
        [setup.layout.size], [SEED[0], SEED[1] + t], None, None, tf.uint32, alg="philox"
    )
    return 0.98 + 0.04 * (bits.numpy() >> 8) / 2**24


class Expected:
    """A rollout in NumPy and the derivatives of its surrogate."""

    def __init__(self, rule, steps, cg, rate, every):
        self.setup = reference.Setup.make(
            seed=3, steps=steps, rate=rate, cg_iterations=cg, **{"damping": 2e-5, **RULES[rule]}
        )
        self.setup.noise = [self.setup.from_layout(noise(self.setup, t)) for t in range(steps)]
        self.theta = reference.random_theta(self.setup.rule.roles, seed=11)
        self.records, self.carried = reference.roll(self.setup, self.theta, steps)
        self.shares, self.gains = reference.shares_of(self.records)
        count = len(reference.as_vector(self.theta))
        random = np.random.default_rng(13)
        self.directions = (
            np.eye(count) if every else random.normal(size=(60, count)) / np.sqrt(count)
        )
        self.h, self.meta = reference.complex_derivatives(
            self.setup, self.theta, self.records, self.shares, self.directions
        )

    def of_role(self, role):
        """The entries of a vector of weights that belong to a role."""
        return np.concatenate(
            [
                np.full(value.size, name == role)
                for name, own in self.theta.items()
                for value in own.values()
            ]
        )

    def check(self, found, tolerance=1e-9):
        """Each role against its own norm, since they are of very different lengths.

        Along a direction a role's gradient shows as its part of the direction; the surrogate
        shows the parts of all roles at once, so that each is asked for by itself.
        """
        got = reference.as_vector(reference.as_arrays(found.gradient))
        for role in self.theta:
            mask = self.of_role(role)
            along = np.where(mask, self.directions, 0)
            if len(self.directions) == len(mask):
                chosen, right = mask, np.where(role == "d", 10 * self.meta, self.h)
                error = np.abs(got - right)[chosen]
                norm = np.linalg.norm(right[chosen])
            else:
                h, meta = reference.complex_derivatives(
                    self.setup, self.theta, self.records, self.shares, along
                )
                right = 10 * meta if role == "d" else h
                error, norm = np.abs(along @ got - right), np.linalg.norm(got[mask])
            # Without a next batch there is no meta loss, and nothing for the damping to learn.
            assert (norm > 1e-4) == (role != "d" or len(self.records) > 1), role
            assert np.max(error) <= tolerance * norm, role


@functools.cache
def expected(rule, steps, cg, every=False):
    return Expected(rule, steps, cg, RATES.get(rule, 0.5), every)


def compiled(function, mode):
    if mode == "eager":
        return function
    return tf.function(function, autograph=False, jit_compile=mode == "xla")


def run(setup, theta, mode, unrolled=False):
    """The rollout and the meta-gradient of the package: carry, rows, gradient."""
    steps = len(setup.batches)
    static = setup.objective(0).static

    def both(weights, carry, batches):
        rate, seed = tf.constant(setup.rate, tf.float64), tf.constant(SEED)
        rollout = Rollout(setup.rule, weights, setup.layout, static, batches, rate, seed, unrolled)
        after, rows = rollout.run(carry)
        return after, [rows.read(t) for t in range(steps)], rollout.gradient(rows)

    return compiled(both, mode)(reference.as_tensors(theta), setup.carry(), setup.stacked_batches())


def assert_close(got, right, tolerance=1e-11):
    np.testing.assert_allclose(got, right, rtol=tolerance, atol=tolerance)


# T and the iterations: the reverse pass has another shape at T = 1, where no meta loss is.
@pytest.mark.parametrize(
    ("steps", "cg"), [(1, 2), pytest.param(3, 1, marks=pytest.mark.slow), (3, 2)]
)
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("unrolled", [False, True], ids=["loop", "unrolled"])
def test_meta_gradient_in_every_mode(steps, cg, mode, unrolled):
    right = expected("x rnn rnn", steps, cg, every=True)
    _, _, found = run(right.setup, right.theta, mode, unrolled)
    right.check(found)


@functools.cache
def run_rule(rule):
    right = expected(rule, 3, 2)
    return right, *run(right.setup, right.theta, "graph")


# Of two that differ in one thing, which another pair differs in too, one is enough every time.
_SELDOM = ("rnn rnn rnn, by the rms", "x rnn rnn, LM", "rnn none none")
_SELDOM += ("x rnn rnn, the residual by its rms",)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=pytest.mark.slow) if rule in _SELDOM else rule
        for rule in RULES
        if rule != "x rnn rnn"
    ],
)
def test_rollout_and_meta_gradient_of_every_rule(rule):
    assert_rollout(*run_rule(rule))


def test_steps_longer_than_a_quarter_of_the_weights_are_among_the_cases():
    assert any(record["limited"] for record in expected("rnn rnn rnn", 3, 2).records[:-1])
    long = expected("x rnn rnn, LM and long", 3, 2)
    assert any(record["limited"] for record in long.records[:-1])
    # What the heuristic makes of such a step is not what it would make of the whole x.
    assert long.carried[-1] != pytest.approx(long.setup.damping / 0.9**3)
    main = expected("x rnn rnn", 3, 2, every=True)
    assert not any(record["limited"] for record in main.records)


def assert_rollout(right, carry, rows, found):
    """Everything that a rollout keeps, returns and reports."""
    setup, records = right.setup, right.records
    for row, record in zip(rows, records, strict=True):
        proposal = row.proposal
        vectors = {
            "w": row.weights,
            "g": row.gradient,
            "r_before": row.state.residual,
            "x_before": row.state.solution,
            "start": proposal.start,
            "start_residual": proposal.start_residual,
            "delta": proposal.delta,
            "diagonal": proposal.diagonal,
            "x": proposal.solution,
            "r": proposal.trajectory.residual,
        }
        for name, vector in vectors.items():
            assert_close(setup.from_layout(vector), record[name])
            if name not in ("delta", "diagonal"):
                assert not np.any(np.where(setup.layout.mask(), 0, vector)), name
        scalars = {"loss": row.loss, "loss_after": row.loss_after, "h": row.h}
        scalars["damping"] = row.state.damping
        for name, scalar in scalars.items():
            assert_close(scalar, record[name])
        assert int(proposal.trajectory.iterations) == record["iterations"]
    w, r, x, states, damping = right.carried
    assert_close(setup.from_layout(carry.weights), w)
    assert_close(setup.from_layout(carry.state.residual), r)
    assert_close(setup.from_layout(carry.state.solution), x)
    assert_close(carry.state.damping, damping)
    for role in setup.rule.roles:
        assert_close(setup.lstm_state(carry.state, role), states[role])
    right.check(found)
    column = {name: np.array([record[name] for record in records]) for name in ("loss", "h")}
    after = np.array([record["loss_after"] for record in records])
    parts = {
        "meta_loss_same_batch": after[:-1] - column["loss"][:-1],
        "meta_loss_next_batch": column["loss"][1:] - column["loss"][:-1],
        "meta_loss": right.gains,
    }
    for name, values in parts.items():
        assert_close(found.metrics[name], right.shares @ values)
    assert_close(found.metrics["hession_loss"], column["h"].mean())
    assert_close(found.metrics["base_loss"], column["loss"][0])
    assert_close(found.metrics["loss"], column["loss"][-1])


def central(function, epsilon):
    plus, minus = np.array(function(epsilon)), np.array(function(-epsilon))
    return (plus - minus) / (2 * epsilon)


def test_finite_differences_agree_with_the_surrogate_and_not_with_the_true_losses():
    right, _, _, found = run_rule("rnn rnn rnn")
    got = reference.as_vector(reference.as_arrays(found.gradient))
    for role in right.theta:
        which = 1 if role == "d" else 0
        factor = 10 if role == "d" else 1
        mask = right.of_role(role)
        norm = np.linalg.norm(got[mask])
        errors = []
        for direction in np.where(mask, right.directions, 0)[:5]:
            direction = direction / np.linalg.norm(direction)

            def surrogate(epsilon, direction=direction):
                moved = reference.moved_along(right.theta, direction, epsilon)
                return reference.surrogate(right.setup, moved, right.records, right.shares)

            def truth(epsilon, direction=direction):
                moved = reference.moved_along(right.theta, direction, epsilon)
                return reference.true_losses(right.setup, moved, 3, right.shares)

            along = direction @ got
            assert abs(factor * central(surrogate, 1e-5)[which] - along) < 1e-6 * norm
            errors.append(abs(factor * central(truth, 1e-5)[which] - along) / norm)
        assert max(errors) > 1e-3, role


def meta_step(right, dtype):
    """A whole meta-step under XLA from the numbers of the NumPy rollout, in a dtype."""
    setup = right.setup
    weights = reference.as_tensors(right.theta, dtype)
    cast = functools.partial(
        tf.nest.map_structure, lambda v: tf.cast(v, dtype) if v.dtype.is_floating else v
    )
    optimizer = mlhf.MetaHessianFree(setup.rate, cg_iterations=2)
    layout = optimizer.layout(cast(reference.structure(setup.w)))

    def step(weights, carry, batches):
        return meta_steps.meta_step(
            optimizer,
            layout,
            setup.objective(0).static,
            False,
            weights,
            adam.init(weights),
            carry,
            batches,
            tf.constant(SEED),
            tf.constant(setup.rate, dtype),
            tf.constant(1e-3, dtype),
        )

    return compiled(step, "xla")(weights, cast(setup.carry()), setup.stacked_batches(dtype))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(tf.float64, 1e-9, id="float64"),
        pytest.param(tf.float32, 1e-3, id="float32", marks=pytest.mark.slow),
    ],
)
def test_a_whole_meta_step_under_xla(dtype, tolerance):
    right = expected("x rnn rnn", 3, 2, every=True)
    got = meta_step(right, dtype)
    assert bool(got.finite)
    weights = reference.as_vector(right.theta)
    gradient = np.where(right.of_role("d"), 10 * right.meta, right.h) + 2e-7 * weights
    scale = min(1, np.linalg.norm(weights) / np.linalg.norm(gradient))
    moments = reference.as_vector(reference.as_arrays(got.adam.first))
    for role in right.theta:
        mask = right.of_role(role)
        error = np.linalg.norm((moments - 0.1 * scale * gradient)[mask])
        assert error < tolerance * np.linalg.norm(0.1 * scale * gradient[mask]), role
    moved = reference.as_vector(reference.as_arrays(got.weights))
    large = np.abs(gradient) > 1e-4
    assert_close(moved[large], (weights - 1e-3 * np.sign(gradient))[large], 1e-6)
    moved = right.setup.from_layout(tf.cast(got.carry.weights, tf.float64))
    assert_close(moved, right.carried[0], tolerance)
    assert_close(got.metrics["hession_loss"], np.mean([q["h"] for q in right.records]), tolerance)
    assert_close(got.metrics["meta_loss"], right.shares @ right.gains, tolerance)
    assert_close(got.metrics["grad_length"], np.linalg.norm(gradient), tolerance)


# A network of one parameter, z = (w a, 0), for which the whole rollout can be done by hand.


def one_parameter(parameters, inputs):
    z = parameters["w"] * inputs
    return tf.stack([z, tf.zeros_like(z)], 1)


def roll_one_parameter(network, loss, inputs, targets, steps, cg, dtype=tf.float64):
    """From w = 1 with all LSTM weights zero, at lr 1/2."""
    optimizer = mlhf.MetaHessianFree(0.5, cg_iterations=cg, kinds="dense_kernel")
    parameters = {"w": tf.constant(1.0, dtype)}
    state = optimizer.init(parameters)
    layout = optimizer.layout(parameters)
    weights = {
        role: LSTMWeights(*[tf.zeros_like(value) for value in own])
        for role, own in optimizer.weights_for(layout).items()
    }
    objective = mlhf.Objective(network, loss, inputs[0], targets[0])
    first = (optimizer.rule, weights, layout, objective.static, (inputs, targets))
    rollout = Rollout(*first, tf.constant(0.5, dtype), tf.constant(SEED))
    assert rollout.length == steps
    _, rows = rollout.run(Carry(layout.flatten(parameters), (), state))
    return rows, rollout.gradient(rows)


# With three iterations allowed, the first is exact and the others are not run.
@pytest.mark.parametrize("cg", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_golden_case(cg, monkeypatch):
    inputs, targets = tf.ones([2, 1], tf.float64), tf.zeros([2, 1], tf.int32)
    monkeypatch.setattr("mlhf.meta_training.rollout.NOISE", 0.0)
    rows, found = roll_one_parameter(one_parameter, "softmax_cross_entropy", inputs, targets, 2, cg)
    row = rows.read(0)
    curvature = (row.gradient - row.proposal.trajectory.residual) / row.proposal.solution
    assert int(row.proposal.trajectory.iterations) == 1
    got = {
        "g": row.gradient[0],
        "delta": row.proposal.delta[0],
        "A": curvature[0],
        "x": row.proposal.solution[0],
        "w1": rows.read(1).weights[0],
        "h": row.h,
        "m0": found.metrics["meta_loss"],
        "dm0": found.gradient["d"].dense_bias[0] / 10,
    }
    right = {
        "g": -0.2689414214,
        "delta": np.log(2) + 2e-5,
        "A": 0.8897791138,
        "x": -0.3022563884,
        "w1": 1.1511281942,
        "h": -0.2851127193,
        "m0": -0.0384523065,
        "dm0": 0.0204059336,
    }
    for name, value in right.items():
        assert float(got[name]) == pytest.approx(value, abs=2e-10), name


@pytest.mark.parametrize("dtype", [pytest.param(tf.float32, marks=pytest.mark.slow), tf.float64])
def test_a_zero_step_teaches_nothing_and_is_finite(dtype):
    # Two batches that are fitted already: g = 0, so no iteration runs and x_n = 0.
    inputs = targets = tf.ones([2, 3], dtype)
    rows, found = roll_one_parameter(
        lambda p, x: p["w"] * x, "squared_error", inputs, targets, 2, 2, dtype
    )
    assert int(rows.read(0).proposal.trajectory.iterations) == 0
    assert float(rows.read(0).h) == 0
    for value in tf.nest.flatten(found.gradient):
        assert not np.any(value)
    for value in found.metrics.values():
        assert float(value) == 0


def test_model_state_moves_once_a_step():
    def network(parameters, model_state, inputs):
        return parameters["w"] * inputs, {"calls": model_state["calls"] + 1}

    optimizer = mlhf.MetaHessianFree(0.5, cg_iterations=1, kinds="dense_kernel")
    parameters = {"w": tf.constant(1.0, tf.float64)}
    state = optimizer.init(parameters)
    layout = optimizer.layout(parameters)
    calls = {"calls": tf.constant(10)}
    x = tf.ones([3, 2], tf.float64)
    objective = mlhf.Objective(network, "squared_error", x[0], x[0], calls)
    first = (optimizer.rule, optimizer.weights_for(layout), layout, objective.static, (x, 2 * x))
    rollout = Rollout(*first, tf.constant(0.5, tf.float64), tf.constant(SEED))
    carry, rows = rollout.run(Carry(layout.flatten(parameters), calls, state))
    rollout.gradient(rows)
    assert [int(rows.read(t).model_state["calls"]) for t in range(3)] == [10, 11, 12]
    assert int(carry.model_state["calls"]) == 13
