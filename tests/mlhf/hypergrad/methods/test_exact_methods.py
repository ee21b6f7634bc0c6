"""Every dynamics, hyperparameter and exact method against central differences of NumPy's training.

Finite differences in float64 with eps 1e-5; the two codes share nothing.
"""

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg
from tests.mlhf.hypergrad import numpy_training as reference

T = reference.STEPS
RNG = np.random.default_rng(0)
FIRST = np.array([0.5, -0.8, 0.3, 0.7, -0.4])
VELOCITY = np.array([0.1, -0.2, 0.05, 0.02, -0.1])
RATES = 0.05 + 0.1 * RNG.uniform(size=[T, 2])
MOMENTA = 0.4 + 0.4 * RNG.uniform(size=[T])
CASES = {
    "gd": (hg.GradientDescent(), ["learning_rate"]),
    "backtracking": (hg.GradientDescent(backtracking=True), ["learning_rate"]),
    "adam": (hg.Adam(epsilon_root=1e-6), ["learning_rate", "beta1", "beta2"]),
    **{
        form + suffix: (
            hg.Momentum(form=form, nesterov=bool(suffix)),
            ["learning_rate", "momentum", "initial_velocity"],
        )
        for form in ("M1", "M2", "M3", "M4")
        for suffix in ("", " nesterov")
    },
}


def structure(vector):
    return {"a": tf.constant(vector[:3]), "b": tf.constant(vector[3:])}


def train_loss(w, h, step):
    a, b = w["a"], w["b"]
    x = tf.sin(1.7 * tf.cast(step, tf.float64) + tf.range(3, dtype=tf.float64))
    return (
        tf.reduce_sum(x**2 * tf.sin(a) * a)
        + tf.reduce_sum(h["lam"] * b**2)
        + h["c"] * tf.reduce_sum(b**4) / 4
        + tf.tanh(a[0] * b[0])
    )


def outer_loss(w, h):
    a, b = w["a"], w["b"]
    return tf.reduce_sum((a - 1) ** 2) * b[0] + tf.reduce_sum(b**3) + h["kappa"] * a[0]


def flat_hyper(names):
    """The hyperparameters as NumPy arrays, as the finite differences move them."""
    every = {
        "learning_rate": RATES * (20 if "backtracking" in names else 1),
        "momentum": MOMENTA,
        "beta1": MOMENTA,
        "beta2": 0.9 + 0.09 * MOMENTA,
        "initial_velocity": VELOCITY,
        "initial_weights": FIRST,
        "lam": np.array([0.3, 0.6]),
        "c": np.array(0.4),
        "kappa": np.array(0.7),
    }
    names = [*names, "initial_weights", "lam", "c", "kappa"]
    return {name: every[name] for name in names if name in every}


def by_numpy(case, flat):
    """E after NumPy's training."""
    kind, *options = case.split()
    spread = {
        name: np.repeat(value, [3, 2], axis=1) if value.ndim == 2 else np.tile(value[:, None], 5)
        for name, value in flat.items()
        if name in ("learning_rate", "momentum", "beta1", "beta2")
    }
    hyper = {**flat, **spread, "v0": flat.get("initial_velocity", np.zeros(5))}
    dynamics = kind if kind in ("gd", "backtracking", "adam") else "momentum"
    w = reference.train(flat["initial_weights"], hyper, dynamics, kind, bool(options))
    return w, reference.outer(w[:3], w[3:], flat["kappa"])


def differences(function, flat, eps=1e-5):
    found = {}
    for name, value in flat.items():
        found[name] = np.zeros(np.shape(value))
        for index in np.ndindex(np.shape(value)):
            ends = []
            for sign in (1, -1):
                moved = np.array(value)
                moved[index] += sign * eps
                ends.append(function({**flat, name: moved}))
            found[name][index] = (ends[0] - ends[1]) / (2 * eps)
    return found


def as_hyper(flat):
    return {
        name: structure(value) if name.startswith("initial") else tf.constant(value)
        for name, value in flat.items()
    }


def as_array(gradient):
    return np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(gradient)])


# The other forms of Nesterov share their lines with M2's.
SLOW = ("M1 nesterov", "M3 nesterov", "M4 nesterov")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES],
)
def test_reverse_and_forward_against_differences(case):
    dynamics, names = CASES[case]
    flat = flat_hyper([*names, case])
    problem = hg.Problem(train_loss, outer_loss, dynamics=dynamics, steps=T)
    hyper = as_hyper(flat)
    result = hg.reverse(problem, structure(FIRST), hyper)

    weights, value = by_numpy(case, flat)
    np.testing.assert_allclose(as_array(result.weights), weights, rtol=1e-12)
    np.testing.assert_allclose(result.valid_loss, value, rtol=1e-12)
    expected = differences(lambda moved: by_numpy(case, moved)[1], flat)
    for name in flat:
        scale = np.abs(expected[name]).max()
        assert scale > 1e-4, name
        np.testing.assert_allclose(
            as_array(result.hypergradient[name]),
            expected[name].ravel(),
            rtol=1e-6,
            atol=1e-6 * scale,
            err_msg=name,
        )

    forward = hg.forward(problem, structure(FIRST), hyper, together=4)
    trained = hg.train(problem, structure(FIRST), hyper)
    for name in flat:
        np.testing.assert_allclose(
            as_array(forward.hypergradient[name]),
            as_array(result.hypergradient[name]),
            rtol=1e-9,
            atol=1e-12,
            err_msg=name,
        )
    for other in (forward, trained):
        np.testing.assert_array_equal(as_array(other.weights), as_array(result.weights))
        np.testing.assert_array_equal(other.train_loss, result.train_loss)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_betas_of_adam_at_every_length(steps):
    # Whether the first correction depends on β shows after one step already.
    problem = hg.Problem(
        train_loss, outer_loss, dynamics=hg.Adam(0.05, epsilon_root=1e-6), steps=steps
    )
    flat = {"beta1": np.array(0.8), "beta2": np.array(0.95)}
    fixed = {"lam": np.array([0.3, 0.6]), "c": np.array(0.4), "kappa": np.array(0.7)}

    def end(moved):
        rows = {name: np.full([steps, 5], value) for name, value in moved.items()}
        hyper = {**fixed, **rows, "learning_rate": np.full([steps, 5], 0.05)}
        w = reference.train(FIRST, hyper, "adam", steps=steps)
        return reference.outer(w[:3], w[3:], 0.7)

    expected = differences(end, flat)
    result = hg.reverse(problem, structure(FIRST), as_hyper({**flat, **fixed}))
    for name in flat:
        # After one step of Adam its betas have cancelled, up to the root's ε.
        np.testing.assert_allclose(
            result.hypergradient[name], expected[name], rtol=1e-6, atol=1e-9, err_msg=name
        )


def test_forms_of_momentum_differ_under_schedules():
    found = []
    for form in ("M1", "M2", "M3", "M4"):
        flat = flat_hyper(["learning_rate", "momentum"])
        # The same up to M1's scale, were momenta and rates constant.
        if form == "M1":
            flat["learning_rate"] = RATES / (1 - MOMENTA[:, None])
        found.append(by_numpy(form, flat)[0])
    m1, m2, m3, m4 = found
    for one, other in ((m1, m2), (m1, m4), (m2, m4)):
        assert np.abs(one - other).max() > 1e-3
    # Written differently, the heavy ball is what Keras does as long as the rate is in the velocity.
    np.testing.assert_allclose(m3, m4, rtol=1e-12)


def test_a_constant_has_the_sum_of_its_steps():
    problem = hg.Problem(train_loss, outer_loss, dynamics=hg.Momentum(form="M1"), steps=T)
    flat = flat_hyper(["learning_rate", "momentum"])
    del flat["initial_weights"]
    constant = {**flat, "learning_rate": np.array(0.1), "momentum": np.array(0.6)}
    scheduled = {**flat, "learning_rate": np.full(T, 0.1), "momentum": np.full([T, 1], 0.6)}
    one = hg.reverse(problem, structure(FIRST), as_hyper(constant))
    rows = hg.reverse(problem, structure(FIRST), as_hyper(scheduled))
    for name in ("learning_rate", "momentum"):
        by_step = np.ravel(rows.hypergradient[name])
        assert by_step.shape == (T,)
        np.testing.assert_allclose(one.hypergradient[name], by_step.sum(), rtol=1e-12)
        np.testing.assert_allclose(one.per_step[name], by_step, rtol=1e-12)
        np.testing.assert_allclose(np.ravel(rows.per_step[name]), by_step, rtol=0)
    # What is read by the outer loss alone comes from no step.
    np.testing.assert_array_equal(one.per_step["kappa"], np.zeros(T))


def test_golden_numbers():
    # G1, G2 and G4 of the reference implementations (RFHO, FAR-HO), recomputed in float64.
    def inner(w, h, step):
        return tf.reduce_mean(w["v1"] ** 2) + tf.reduce_sum(h["lam"] * w["v2"] ** 2)

    def outer(w, h):
        return tf.reduce_mean(w["v1"] * w["v2"])

    d = tf.float64
    momentum = hg.Problem(inner, outer, dynamics=hg.Momentum(form="M2"), steps=10)
    first = {
        "v1": tf.constant([[1, -1, 1], [2, 10, 2]], d),
        "v2": tf.constant([-1, 1, 0.2], d),
    }
    hyper = {"lam": tf.ones([3], d), "learning_rate": 0.1, "momentum": 0.5}
    for storage in ("memory", "checkpoints", "disk"):
        found = hg.reverse(momentum, first, hyper, storage=storage).hypergradient
        np.testing.assert_allclose(
            found["lam"], [-0.018393528175, 0.055180584525, 0.003678705635], atol=1e-12
        )
        np.testing.assert_allclose(found["learning_rate"], 0.53872249993, atol=1e-11)
        np.testing.assert_allclose(found["momentum"], -0.07654224469, atol=1e-11)

    first = {"v1": tf.constant([1, 3], d), "v2": tf.constant([[-1, -2], [1, 0]], d)}
    hyper = {"lam": tf.zeros([2, 2], d), "learning_rate": 0.1, "momentum": 0.9}
    found = hg.reverse(momentum, first, hyper).hypergradient
    expected = [[-1.218236439754, -7.309418638524], [1.218236439754, 0]]
    np.testing.assert_allclose(found["lam"], expected, atol=1e-12)
    np.testing.assert_allclose(found["learning_rate"], -1.23152594, atol=1e-8)
    np.testing.assert_allclose(found["momentum"], 4.79462134, atol=1e-8)

    hyper = {"lam": tf.ones([2, 2], d), "learning_rate": 0.01}
    for epsilon_root, expected in ((1e-6, 11.965104129), (1e-12, 11.965243776)):
        adam = hg.Problem(inner, outer, dynamics=hg.Adam(epsilon_root=epsilon_root), steps=10)
        # A weight of zero has a gradient of zero, where the root is steep: any growth is accepted.
        found = hg.reverse(adam, first, hyper, largest_growth=None).hypergradient
        np.testing.assert_allclose(found["learning_rate"], expected, atol=1e-9)


def test_columns_of_forward_written_out_or_looped_over():
    flat = flat_hyper(["learning_rate", "momentum", "initial_velocity"])
    problem = hg.Problem(train_loss, outer_loss, dynamics=hg.Momentum(form="M1"), steps=T)
    hyper = as_hyper(flat)
    written = hg.forward(problem, structure(FIRST), hyper, together=1000)
    looped = hg.forward(problem, structure(FIRST), hyper, together=3)
    for name in flat:
        for found in (
            lambda result, name=name: as_array(result.hypergradient[name]),
            lambda result, name=name: result.info["jacobian_norm"][name],
        ):
            np.testing.assert_allclose(found(written), found(looped), rtol=1e-12, atol=1e-15)
    assert np.all(written.info["jacobian_norm"]["lam"][1:] > 0)


def test_a_hypergradient_through_a_product_with_a_zero():
    rates = np.array([0.4, 0.0, 0.7])
    weights = np.array([0.5, -1.0, 2.0])

    def inner(w, h, step):
        return tf.reduce_sum((tf.math.cumprod(w["w"] + h["a"]) - 1) ** 2)

    problem = hg.Problem(
        inner,
        lambda w, h: tf.reduce_sum(w["w"] ** 2),
        dynamics=hg.Momentum(0.1, 0.5),
        steps=3,
    )
    shifts = rates - weights  # the factors are the rates at first
    found = hg.reverse(problem, {"w": tf.constant(weights)}, {"a": tf.constant(shifts)})

    def trained(a):
        w, velocity = weights, np.zeros(3)
        for _ in range(3):
            x = w + a
            y = np.array([x[0], x[0] * x[1], x[0] * x[1] * x[2]])
            jacobian = [[1, 0, 0], [x[1], x[0], 0], [x[1] * x[2], x[0] * x[2], x[0] * x[1]]]
            velocity = 0.5 * velocity + 2 * (y - 1) @ np.array(jacobian)
            w = w - 0.1 * velocity
        return np.sum(w**2)

    steps = 1e-5 * np.eye(3)
    expected = [(trained(shifts + e) - trained(shifts - e)) / 2e-5 for e in steps]
    np.testing.assert_allclose(found.hypergradient["a"], expected, rtol=1e-8)
