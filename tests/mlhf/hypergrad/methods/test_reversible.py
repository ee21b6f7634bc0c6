"""Reversible momentum: back to the first bit, and the same hypergradients as by other ways."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad
from mlhf.hypergrad import determinism
from mlhf.hypergrad.exact_arithmetic import fixed_point_momentum
from mlhf.hypergrad.exact_arithmetic.fixed_point import FixedPointRangeError, to_float
from mlhf.hypergrad.exact_arithmetic.information_buffer import quantize_decay
from mlhf.hypergrad.methods import step_functions

STEPS = 6
RANDOM = np.random.default_rng(0)
INPUTS, TARGETS = RANDOM.normal(size=(12, 3)), RANDOM.normal(size=(12, 2))
WEIGHTS = {"in": 0.5 * RANDOM.normal(size=(3, 3)), "out": 0.5 * RANDOM.normal(size=(3, 2))}
VELOCITY = {name: 0.1 * RANDOM.normal(size=leaf.shape) for name, leaf in WEIGHTS.items()}
FORMS = ("M1", "M2", "M4")


def network(weights, inputs):
    return tf.tanh(inputs @ weights["in"]) @ weights["out"]


def train_loss(weights, hyper, step):
    """Another batch every step, a penalty, and inputs that are learned."""
    rows = tf.math.floormod(tf.range(4) + 3 * step, 12)
    inputs = tf.gather(hyper.get("inputs", tf.constant(INPUTS)), rows)
    error = network(weights, inputs) - tf.gather(tf.constant(TARGETS), rows)
    squares = tf.add_n([tf.reduce_sum(leaf**2) for leaf in tf.nest.flatten(weights)])
    return tf.reduce_mean(error**2) + tf.exp(hyper["l2"]) * squares


def valid_loss(weights, hyper):
    """The penalty stands in it too: the direct term."""
    error = network(weights, tf.constant(INPUTS[::-1].copy())) - tf.constant(TARGETS)
    return tf.reduce_mean(error**2) + 0.1 * hyper["l2"] ** 2


def problem(form="M1", steps=STEPS, train=train_loss, valid=valid_loss, **dynamics):
    dynamics = {"learning_rate": 0.1, "momentum": 0.9} | dynamics
    return hypergrad.Problem(
        train, valid, dynamics=hypergrad.Momentum(form=form, **dynamics), steps=steps
    )


def tensors(structure):
    return tf.nest.map_structure(lambda leaf: tf.constant(leaf, tf.float64), structure)


SHAPES = {
    "one": [],
    "a step": [STEPS, 1],
    "a group": [1, 2],
    "a step and group": [STEPS, 2],
    "a weight": None,
}


def hyperparameters(shape, seed=1):
    random = np.random.default_rng(seed)

    def draw(low, high):
        if SHAPES[shape] is None:
            return {name: random.uniform(low, high, leaf.shape) for name, leaf in WEIGHTS.items()}
        return random.uniform(low, high, SHAPES[shape])

    momentum = tf.nest.map_structure(quantize_decay, draw(0.3, 0.95))
    return tensors({"learning_rate": draw(0.05, 0.4), "momentum": momentum, "l2": -3.0})


def everything(shape="a step and group"):
    more = {"initial_weights": WEIGHTS, "initial_velocity": VELOCITY, "inputs": INPUTS}
    return hyperparameters(shape) | tensors(more)


def assert_same(got, right, rtol):
    for name, value in right.items():
        for a, b in zip(tf.nest.flatten(got[name]), tf.nest.flatten(value), strict=True):
            scale = float(tf.reduce_max(tf.abs(b)))
            assert scale > 0, name
            np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale, err_msg=name)


def plain_training(form, hyper):
    """The dynamics in floats, one line a form; the valid loss after it."""
    w, v = dict(hyper["initial_weights"]), dict(hyper["initial_velocity"])
    for step in range(STEPS):
        rate = dict(zip(sorted(w), tf.unstack(hyper["learning_rate"][step]), strict=True))
        mu = dict(zip(sorted(w), tf.unstack(hyper["momentum"][step]), strict=True))
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = train_loss(w, hyper, tf.constant(step))
        g = tape.gradient(loss, w)
        for name in w:
            if form == "M1":
                v[name] = mu[name] * v[name] - (1 - mu[name]) * g[name]
                w[name] = w[name] + rate[name] * v[name]
            elif form == "M2":
                v[name] = mu[name] * v[name] + g[name]
                w[name] = w[name] - rate[name] * v[name]
            else:
                v[name] = mu[name] * v[name] - rate[name] * g[name]
                w[name] = w[name] + v[name]
    return valid_loss(w, hyper), w


@pytest.mark.parametrize("form", FORMS)
def test_every_hypergradient_against_finite_differences(form):
    hyper = everything()
    got = hypergrad.reversible(problem(form), tensors(WEIGHTS), hyper)
    loss = tf.function(lambda hyper: plain_training(form, hyper)[0])
    np.testing.assert_allclose(got.valid_loss, loss(hyper), rtol=1e-10)
    random, eps = np.random.default_rng(2), 1e-5
    for name, value in hyper.items():
        direction = tf.nest.map_structure(
            lambda leaf: tf.constant(random.normal(size=leaf.shape)), value
        )
        # Decays a little beside the quantised ones: floats know no staircase.
        ends = [
            loss(
                hyper
                | {
                    name: tf.nest.map_structure(
                        lambda leaf, d, sign=sign: leaf + sign * eps * d, value, direction
                    )
                }
            )
            for sign in (1, -1)
        ]
        right = float(ends[0] - ends[1]) / (2 * eps)
        along = [
            float(tf.reduce_sum(d * g))
            for d, g in zip(
                tf.nest.flatten(direction), tf.nest.flatten(got.hypergradient[name]), strict=True
            )
        ]
        assert sum(along) == pytest.approx(right, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_reverse(shape):
    form = FORMS[list(SHAPES).index(shape) % 3]
    hyper = hyperparameters(shape)
    got = hypergrad.reversible(problem(form), tensors(WEIGHTS), hyper, per_step=True)
    right = hypergrad.reverse(problem(form), tensors(WEIGHTS), hyper, per_step=True)
    assert_same(got.hypergradient, right.hypergradient, 1e-9)
    assert_same(got.per_step, right.per_step, 1e-9)
    assert_same(got.weights, right.weights, 1e-9)
    assert_same(got.state, right.state, 1e-9)
    assert_same(got.adjoint_norm, right.adjoint_norm, 1e-9)
    np.testing.assert_allclose(got.train_loss, right.train_loss, rtol=1e-9)
    assert_same(got.info, {k: right.info[k] for k in ["initial_weights_gradient"]}, 1e-9)


def test_constants_of_the_dynamics_are_the_same_as_passed():
    passed = {"learning_rate": 0.2, "momentum": 0.8, "l2": -3.0}
    a = hypergrad.reversible(problem("M2"), tensors(WEIGHTS), tensors(passed))
    dynamics = problem("M2", learning_rate=0.2, momentum=0.8)
    b = hypergrad.reversible(dynamics, tensors(WEIGHTS), tensors({"l2": -3.0}))
    assert float(a.valid_loss) == float(b.valid_loss)
    np.testing.assert_array_equal(a.hypergradient["l2"], b.hypergradient["l2"])
    # One number's gradient is the sum of its schedule's.
    schedule = {name: tf.fill([STEPS, 1], value) for name, value in tensors(passed).items()}
    schedule["l2"] = tf.constant(-3.0, tf.float64)
    c = hypergrad.reversible(problem("M2"), tensors(WEIGHTS), schedule)
    for name in ("learning_rate", "momentum"):
        total = tf.reduce_sum(c.hypergradient[name])
        np.testing.assert_allclose(a.hypergradient[name], total, rtol=1e-12)
        np.testing.assert_allclose(a.per_step[name], c.hypergradient[name][:, 0], rtol=1e-12)


def test_several_outer_losses():
    losses = {"first": valid_loss, "second": lambda w, h: tf.reduce_sum(w["in"] ** 4)}
    several = problem(valid=losses)
    got = hypergrad.reversible(several, tensors(WEIGHTS), everything())
    right = hypergrad.reverse(several, tensors(WEIGHTS), everything())
    assert_same(got.hypergradient, right.hypergradient, 1e-9)
    assert_same(got.valid_loss, right.valid_loss, 1e-9)


def test_random_schedules_run_back_to_the_first_bit():
    random = np.random.default_rng(3)
    for form in ("M1", "M4"):
        hyper = everything()
        rates = random.uniform(0, 0.5, (STEPS, 2)) * (random.random((STEPS, 2)) < 0.6)
        hyper["learning_rate"] = tf.constant(rates)
        hyper["momentum"] = tf.constant(random.uniform(0.01, 1.0, (STEPS, 2)))
        # It raises if a bit is missing.
        hypergrad.reversible(problem(form), tensors(WEIGHTS), hyper)


def gradient_at(w, step):
    """Of a quadratic with a minimum that moves, in the weights' dtype."""
    curvature, minimum = np.linspace(0.2, 1.5, 5), np.array([0.3, -0.7, 1.1, 0.01, -2.3])
    return (curvature * (w.astype(np.float64) - np.cos(step) * minimum)).astype(w.dtype)


class Quadratic:
    """Five weights, the gradient in NumPy: the arithmetic without TensorFlow."""

    start = np.linspace(-1, 2, 5)

    def __init__(self, form="M1", rate=0.3, momentum=0.9):
        self.factors = type(
            "Factors",
            (),
            {
                "blocks": [slice(0, 5)],
                "at": lambda self, name, step: [rate if name == "learning_rate" else momentum],
                "all_of": lambda self, name: np.array([momentum]),
                "times": lambda self, factors, vector: factors[0] * vector,
            },
        )()
        self.training = fixed_point_momentum.FixedPointMomentum(
            form, self.factors, self.start, np.zeros(5)
        )

    def gradient(self, step):
        return gradient_at(to_float(self.training.weights), step)

    def forward(self, steps):
        for step in range(steps):
            self.training.forward(step, self.gradient(step))

    def backward(self, steps, disturb=0.0):
        for step in reversed(range(steps)):
            self.training.undo_move(step)
            self.training.undo_push(step, self.gradient(step) + disturb)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("momentum", [0.5, 0.9, 1.0])
def test_a_thousand_steps_and_back(form, momentum):
    quadratic = Quadratic(form, 0.3, momentum)
    quadratic.forward(1000)
    assert not quadratic.training.is_back
    if momentum < 1:
        assert quadratic.training.bits == pytest.approx(-1000 * np.log2(momentum), rel=0.05)
    quadratic.backward(1000)
    assert quadratic.training.is_back


def test_is_back_sees_a_single_bit():
    for disturb in (2.0**-51, 0.0):
        quadratic = Quadratic()
        quadratic.forward(10)
        quadratic.backward(10, disturb)
        assert quadratic.training.is_back == (disturb == 0)


def naive_error(dtype, rate, momentum, steps):
    """Floats run back by the inverse formulas; the largest error of a weight."""
    rate, momentum, one = dtype(rate), dtype(momentum), dtype(1)
    w, v = Quadratic.start.astype(dtype), np.zeros(5, dtype)
    for step in range(steps):
        v = momentum * v - (one - momentum) * gradient_at(w, step)
        w = w + rate * v
    for step in reversed(range(steps)):
        w = w - rate * v
        v = (v + (one - momentum) * gradient_at(w, step)) / momentum
    return np.abs(w - Quadratic.start).max()


def test_naive_reversal_loses_the_way_and_this_one_does_not():
    assert naive_error(np.float32, 0.3, 0.9, 400) > 0.05
    assert naive_error(np.float64, 0.3, 0.5, 200) > 1e20
    quadratic = Quadratic(momentum=0.5)
    quadratic.forward(200)
    quadratic.backward(200)
    assert quadratic.training.is_back


def test_float32_weights_come_back_too():
    single = tf.nest.map_structure(lambda leaf: tf.constant(leaf, tf.float32), WEIGHTS)

    def loss(weights, hyper, step):
        x = tf.constant(INPUTS, tf.float32)
        del step
        error = network(weights, x) - tf.constant(TARGETS, tf.float32)
        return tf.reduce_mean(error**2) + hyper["l2"] * tf.reduce_sum(weights["in"] ** 2)

    def valid(weights, hyper):
        del hyper
        return tf.reduce_sum(weights["out"] ** 2)

    momentum = float(quantize_decay(0.9))
    hyper = {"l2": 0.1, "learning_rate": tf.fill([300], 0.5), "momentum": momentum}
    problems = problem(train=loss, valid=valid, steps=300)
    got = hypergrad.reversible(problems, single, hyper)
    right = hypergrad.reverse(problems, single, hyper)
    assert_same(got.hypergradient, right.hypergradient, 1e-3)
    assert got.info["bits"] == pytest.approx(300 * 0.152, rel=0.05)
    again = hypergrad.reversible(problems, single, hyper)
    for a, b in zip(tf.nest.flatten(got.weights), tf.nest.flatten(again.weights), strict=True):
        assert determinism.same_bits(a.numpy(), b.numpy())


def test_decays_that_round_to_the_same_are_the_same_training():
    def loss_at(momentum):
        hyper = tensors({"momentum": momentum, "l2": -3.0})
        return float(hypergrad.reversible(problem(), tensors(WEIGHTS), hyper).valid_loss)

    at = float(quantize_decay(0.9))
    assert loss_at(at) == loss_at(at + 2.0**-18) != loss_at(at + 2.0**-16)


def test_a_hundred_gradients_have_the_same_bits():
    calls = []

    def batches(step):
        calls.append(step)
        return INPUTS[step : step + 6]

    def loss(weights, hyper, step, batch):
        del step
        return tf.reduce_mean(network(weights, batch) ** 2) + hyper["l2"] * tf.norm(weights["in"])

    supplied = hypergrad.Problem(
        loss, valid_loss, dynamics=hypergrad.Momentum(form="M1"), steps=STEPS, batches=batches
    )
    hyper = tensors({"l2": -3.0})
    hypergrad.reversible(supplied, tensors(WEIGHTS), hyper, probes=33)
    assert len(calls) > 99 + 2 * STEPS
    # Without probes, which are not repeated: forward in order, and back in exactly the reverse.
    calls.clear()
    hypergrad.reversible(supplied, tensors(WEIGHTS), hyper)
    assert calls == [*range(STEPS), *reversed(range(STEPS))]


def test_a_loss_that_draws_anew_is_refused():
    def noisy(weights, hyper, step):
        return train_loss(weights, hyper, step) * tf.random.uniform([], dtype=tf.float64)

    with pytest.raises(determinism.NotDeterministicError, match="step 0.*stateless.*reverse"):
        hypergrad.reversible(problem(train=noisy), tensors(WEIGHTS), tensors({"l2": -3.0}))
    with pytest.raises(determinism.NotDeterministicError, match="first weights bit for bit"):
        hypergrad.reversible(
            problem(train=noisy), tensors(WEIGHTS), tensors({"l2": -3.0}), probes=0
        )


@pytest.mark.parametrize("calls", [range(100), range(3, 4)], ids=["always", "once"])
def test_second_order_kernels_with_other_bits_are_not_taken_for_the_gradient(calls, monkeypatch):
    compiled = step_functions.compiled
    count = itertools.count()

    def disturbed(training):
        gradient, products = compiled(training)

        def other_bits(*args):
            found = products(*args)
            if next(count) not in calls:
                return found
            return found._replace(gradient=found.gradient * (1 + 1e-15))

        return gradient, other_bits

    right = hypergrad.reversible(problem(), tensors(WEIGHTS), everything())
    assert right.info["shared_gradient"] is True
    monkeypatch.setattr(step_functions, "compiled", disturbed)
    got = hypergrad.reversible(problem(), tensors(WEIGHTS), everything())
    assert got.info["shared_gradient"] is False
    assert_same(got.hypergradient, right.hypergradient, 1e-12)


def test_refuses_what_leaves_the_range():
    hyper = tensors({"learning_rate": 1e6, "l2": -3.0})
    with pytest.raises(FixedPointRangeError, match=r"Step \d+: .*under 2048.*lower the learning"):
        hypergrad.reversible(problem(), tensors(WEIGHTS), hyper)
    large = {"in": 3000 * WEIGHTS["in"], "out": WEIGHTS["out"]}
    with pytest.raises(FixedPointRangeError, match="the first weights"):
        hypergrad.reversible(problem(), tensors(large), tensors({"l2": -3.0}))


def test_refuses_a_loss_that_is_not_finite():
    def breaks(weights, hyper, step):
        return train_loss(weights, hyper, step) + tf.where(
            step == 3, tf.constant(np.nan, tf.float64), 0.0
        )

    with pytest.raises(hypergrad.DivergedError, match="step 3 is nan"):
        hypergrad.reversible(problem(train=breaks), tensors(WEIGHTS), tensors({"l2": -3.0}))


def test_refuses_a_decay_of_zero():
    schedule = np.full([STEPS, 1], 0.9)
    schedule[2] = 0.0
    hyper = tensors({"momentum": schedule, "l2": -3.0})
    with pytest.raises(ValueError, match="above 0 and under 2.*got 0.*reverse"):
        hypergrad.reversible(problem(), tensors(WEIGHTS), hyper)


@pytest.mark.parametrize(
    ("dynamics", "complaint"),
    [
        (hypergrad.GradientDescent(), "Momentum.*GradientDescent.*Use `reverse`"),
        (hypergrad.Adam(), "Momentum.*Adam.*Use `reverse`"),
        (hypergrad.Momentum(form="M3"), 'form="M4"'),
        (hypergrad.Momentum(nesterov=True), "nesterov.*Use `reverse`"),
    ],
)
def test_refuses_dynamics_that_cannot_be_undone(dynamics, complaint):
    refused = hypergrad.Problem(train_loss, valid_loss, dynamics=dynamics, steps=STEPS)
    with pytest.raises(ValueError, match=complaint):
        hypergrad.reversible(refused, tensors(WEIGHTS), tensors({"l2": -3.0}))


def test_refuses_to_be_traced():
    eager, weights, hyper = problem(), tensors(WEIGHTS), tensors({"l2": -3.0})
    traced = tf.function(lambda: hypergrad.reversible(eager, weights, hyper).valid_loss)
    with pytest.raises(ValueError, match="eagerly"):
        traced()
