"""Evaluation steps of MLHF, and the damping heuristic, against NumPy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer import coordinate_lstm
from mlhf.meta_optimizer.proposal import Proposal, shorten
from mlhf.meta_optimizer.recorded_cg import Trajectory
from mlhf.meta_optimizer.rule import MetaState
from mlhf.optimizers.damping import adapt_damping, model_decrease
from tests.contract import objective, start
from tests.mlhf import reference

USES = list(itertools.product(("x", "d", "rnn"), ("rnn", "none"), ("rnn", "none")))


def assert_close(got, right, tolerance=1e-11):
    np.testing.assert_allclose(got, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("x_use", "y_use", "d_use"), USES)
def test_steps_against_numpy(x_use, y_use, d_use):
    setup = reference.Setup.make(
        seed=1, steps=2, damping=0.05, cg_iterations=2, x_use=x_use, y_use=y_use, d_use=d_use
    )
    theta = reference.random_theta(setup.rule.roles, seed=2)
    optimizer = setup.optimizer
    optimizer.weights = reference.as_tensors(theta)
    parameters, state = reference.structure(setup.w), setup.state()
    w, r, x, states = setup.w, setup.r, setup.x, setup.states
    for t, batch in enumerate(setup.batches):
        parameters, state, model_state, metrics = optimizer.step(
            setup.objective(t), parameters, state
        )
        g, G = reference.gradient_and_curvature(w, batch)
        found = reference.propose(setup.rule, theta, g, G, r, x, states, setup.damping)
        moved = w - setup.rate * found["x"]
        r, x, states = found["r"], found["x"], found["states"]
        assert_close(reference.flat(parameters), moved)
        assert_close(setup.from_layout(state.solution), x)
        assert_close(setup.from_layout(state.residual), r)
        for role in setup.rule.roles:
            assert_close(setup.lstm_state(state, role), states[role])
        assert model_state is None
        right = {
            "loss": reference.loss(w, batch),
            "gradient_norm": np.linalg.norm(g),
            "step_norm": setup.rate * np.linalg.norm(x),
            "damping": setup.damping,
            "mean_delta": found["delta"].mean(),
            "x_by_g": np.linalg.norm(x) / np.linalg.norm(g),
            "r_norm": np.linalg.norm(r),
            "minus_h": -reference.h_of(g, found),
            "g_dot_x": g @ x,
            "g_square": g @ g,
            "cg_iterations": found["iterations"],
        }
        assert set(metrics) == set(right)
        for name, value in right.items():
            assert_close(metrics[name], value)
        w = moved


def test_first_solution_and_residual_are_zero():
    setup = reference.Setup.make(x_use="rnn")
    state = setup.optimizer.init(reference.structure(setup.w))
    for value in tf.nest.flatten((state.solution, state.residual, state.lstm)):
        assert not np.any(value)
    assert float(state.damping) == setup.damping


def test_untrained_damping_and_preconditioner_are_near_the_logarithm_of_two():
    setup = reference.Setup.make()
    state = setup.optimizer.init(reference.structure(setup.w))
    step = setup.optimizer.step(setup.objective(0), reference.structure(setup.w), state)
    assert float(step.metrics["mean_delta"]) == pytest.approx(np.log(2) + 2e-5, abs=0.05)


@pytest.mark.parametrize("damping", [1e-6, 0.3, 20.0])
def test_the_first_damping_may_be_chosen(damping):
    optimizer = mlhf.MetaHessianFree(initial_damping=damping)
    optimizer.init(reference.structure(np.zeros(reference.SIZE)))
    found = np.log1p(np.exp(optimizer.weights["d"].dense_bias.numpy()))
    np.testing.assert_allclose(found, damping, rtol=1e-6)
    assert not np.any(optimizer.weights["y"].dense_bias)


# The rate, the damping at first, and what the heuristic then does: the ratio of both decreases
# is bad and 1 the limit; good; middling and 1e-3 the limit.
HEURISTIC = [(2.1, 0.9, [0.9, 1, 1, 1]), (0.3, 0.05, [0.05, 0.05, 0.05, 0.045])]
HEURISTIC += [(0.3, 1e-3, [0.001, 0.001, 0.001, 0.001 / 0.9])]


@pytest.mark.parametrize(("rate", "damping", "dampings"), HEURISTIC)
@pytest.mark.parametrize("optimizer", [mlhf.MetaHessianFree, mlhf.HessianFree])
def test_damping_heuristic_over_steps(optimizer, rate, damping, dampings, monkeypatch):
    given = {"damping": damping, "damping_type": "LM_heuristics", "decay": 0.9, "cg_iterations": 3}
    setup = reference.Setup.make(seed=3, steps=4, rate=rate, y_use="none", d_use="none", **given)
    # Evaluation takes steps of any length.
    monkeypatch.setattr(reference, "limited", lambda x, w, rate: x)
    setup.x, setup.r = np.zeros(reference.SIZE), np.zeros(reference.SIZE)
    records, (w, _, x, _, last) = reference.roll(setup, {}, 4)
    assert_close([record["damping"] for record in records], dampings)
    if optimizer is mlhf.HessianFree:
        optimizer = mlhf.HessianFree(rate, guards="paper", **given)
    else:
        optimizer = setup.optimizer
    parameters = reference.structure(setup.w)
    state = optimizer.init(parameters)
    for t, record in enumerate(records):
        step = optimizer.step(setup.objective(t), parameters, state)
        parameters, state = step.parameters, step.state
        assert_close(step.metrics["damping"], record["damping"])
        assert_close(step.metrics["loss"], record["loss"], 1e-9)
    assert_close(reference.flat(parameters), w, 1e-8)
    # Either optimizer's flat vectors begin with the coordinates in order.
    assert_close(np.asarray(state.solution)[np.flatnonzero(state.solution)], x, 1e-8)
    assert_close(state.damping, last)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_damping_heuristic_at_its_bounds(dtype):
    def adapt(damping, change, predicted):
        losses = 1.0, 1.0 + change
        values = [tf.constant(value, dtype) for value in (damping, *losses, predicted)]
        return float(adapt_damping(*values, 0.5))

    exact = float(np.dtype(dtype.as_numpy_dtype).type(0.1))
    assert adapt(0.1, -0.25, -1.0) == 2 * exact
    assert adapt(0.1, -0.26, -1.0) == exact
    assert adapt(0.1, -0.75, -1.0) == exact
    assert adapt(0.1, -0.76, -1.0) == exact / 2
    # The loss rose where it should have fallen, and where the model says that it rises.
    assert adapt(0.1, 1.0, -1.0) == 2 * exact
    assert adapt(0.1, 1.0, 1.0) == exact / 2
    assert adapt(0.1, -1.0, 0.0) == exact
    # Rounding of a loss of 1 says nothing, in either direction.
    rounding = 8 * float(np.finfo(dtype.as_numpy_dtype).eps)
    assert adapt(0.1, rounding, -rounding) == adapt(0.1, -rounding, -rounding) == exact
    assert adapt(0.9, 1.0, -1.0) == 1
    assert adapt(1.5e-3, -1.0, -1.0) == pytest.approx(1e-3)
    assert adapt(2e-5, 0.0, 0.0) == pytest.approx(1e-3)


def test_model_decrease():
    random = np.random.default_rng(0)
    A = random.normal(size=(4, 4))
    A, g, x = A @ A.T, random.normal(size=4), random.normal(size=4)
    q = model_decrease(*(tf.constant(value, tf.float64) for value in (g, x, g - A @ x, 0.7)))
    assert float(q) == pytest.approx(-0.7 * g @ x + 0.7**2 / 2 * x @ A @ x)


def test_kinds_that_were_not_trained_keep_their_weights():
    optimizer = mlhf.MetaHessianFree()
    optimizer.init({"a": tf.zeros([2]), "b": tf.zeros([3])}, {"a": "u", "b": "v"})
    before = {role: w.kernel1.numpy() for role, w in optimizer.weights.items()}
    trained = {role: coordinate_lstm.initial_weights(1, 5, tf.float32) for role in ("y", "d")}
    optimizer.set_weights(["v"], trained)
    assert optimizer.kinds == ["v", "u"]
    for role in ("y", "d"):
        now = optimizer.weights[role].kernel1.numpy()
        np.testing.assert_array_equal(now[0], trained[role].kernel1[0])
        np.testing.assert_array_equal(now[1], before[role][0])


def test_the_kinds_of_one_network_are_not_those_of_the_next():
    optimizer = mlhf.MetaHessianFree()
    optimizer.draw_weights(["conv_kernel", "dense_kernel", "dense_bias", "mine"])
    images = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3, use_bias=False, name="out")], name="net"
    )
    rows = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, use_bias=False, name="out")], name="net"
    )
    plain = {"conv": {"kernel": tf.zeros([1, 1, 2, 2])}, "dense": {"kernel": tf.zeros([2, 2])}}
    expected = [
        (images, ["conv_kernel"]),
        (rows, ["dense_kernel"]),
        (plain, ["conv_kernel", "dense_kernel"]),
    ]
    for network, _ in expected:
        optimizer.init(network)
    # Each has its own also after the others came.
    for network, kinds in expected:
        parameters = network if isinstance(network, dict) else mlhf.get_parameters(network)
        assert optimizer.layout(parameters).kinds == kinds
    # What init is told holds for those parameters alone.
    optimizer.init({"w": tf.zeros([5])}, kinds="mine")
    optimizer.init({"w": tf.ones([5])})
    assert optimizer.layout({"w": tf.zeros([5])}).kinds == ["mine"]
    assert optimizer.layout(plain).kinds == ["conv_kernel", "dense_kernel"]
    with pytest.raises(ValueError, match="kind"):
        optimizer.layout({"w": tf.zeros([6])})


def test_a_step_that_is_too_long_is_shortened_and_others_are_not():
    free, parameters = mlhf.MetaHessianFree(1.0, cg_iterations=2, damping=0.1), start(tf.float64)
    parameters = tf.nest.map_structure(lambda leaf: leaf + 0.1, parameters)
    state = free.init(parameters)
    problem = objective(tf.float64)
    whole = free.step(problem, parameters, state)
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in tf.nest.flatten(parameters)))
    share = float(whole.metrics["step_norm"]) / norm

    bounded = mlhf.MetaHessianFree(1.0, cg_iterations=2, damping=0.1, longest_step=share / 2)
    assert bounded.settings["longest_step"] == share / 2
    half = bounded.step(problem, parameters, bounded.init(parameters))
    moved = [
        [
            new - old
            for new, old in zip(*map(tf.nest.flatten, (s.parameters, parameters)), strict=True)
        ]
        for s in (half, whole)
    ]
    for a, b in zip(*moved, strict=True):
        np.testing.assert_allclose(a, b / 2, rtol=1e-9)
    # The residual is that of the shorter solution: g - A x / 2.
    layout = free.layout(parameters)
    gradient = layout.flatten(problem.linearize(parameters).gradient())
    np.testing.assert_allclose(half.state.solution, whole.state.solution / 2, rtol=1e-9)
    np.testing.assert_allclose(
        half.state.residual, (gradient + whole.state.residual) / 2, rtol=1e-9, atol=1e-12
    )
    # Where it is not too long, and where all parameters are zero, nothing changes.
    proposal = Proposal(*[tf.constant([3.0, 4.0])] * 7, Trajectory(*[tf.constant([1.0, 2.0])] * 6))
    state = MetaState(proposal.solution, proposal.trajectory.residual, tf.zeros([]), {})
    for longest in (5.1, 0.0):
        found = shorten(proposal, state, tf.ones([2]), tf.constant(longest))
        for a, b in zip(tf.nest.flatten(found), tf.nest.flatten((proposal, state)), strict=True):
            np.testing.assert_array_equal(a, b)
