"""K-FAC's steps: the update, the quadratic model, the heuristic, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import custom_op
import mlhf
from mlhf.optimizers import kfac

RANDOM = np.random.default_rng(3)
X, Y = tf.constant(RANDOM.normal(size=(6, 3))), tf.constant([0, 1, 1, 0, 1, 0])
START = {
    "one": {"bias": tf.zeros([4], tf.float64), "kernel": tf.constant(RANDOM.normal(size=(3, 4)))},
    "two": {"bias": tf.zeros([2], tf.float64), "kernel": tf.constant(RANDOM.normal(size=(4, 2)))},
}
DECAY = 0.01


def network(parameters, inputs):
    one, two = parameters["one"], parameters["two"]
    return tf.tanh(inputs @ one["kernel"] + one["bias"]) @ two["kernel"] + two["bias"]


def objective():
    return mlhf.Objective(network, "softmax_cross_entropy", X, Y, regularizer=mlhf.L2(DECAY))


def flat(structure):
    return np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(structure)])


def gradient_at(parameters):
    return objective().linearize(parameters).gradient()


def matrix(leaves, layer):
    return np.vstack([leaves[layer]["kernel"], leaves[layer]["bias"]])


def test_a_step_with_a_rate_is_the_solve_by_an_explicit_inverse():
    optimizer = kfac.KFAC(0.5, 0.2, momentum=0.7, fisher="exact", decay=0.6)
    parameters, state = START, optimizer.init(START)
    last, running = None, {}
    for step in range(3):
        gradient = gradient_at(parameters)
        inputs = {"one": X.numpy()}
        inputs["two"] = np.tanh(X.numpy() @ parameters["one"]["kernel"] + parameters["one"]["bias"])
        logits = inputs["two"] @ parameters["two"]["kernel"].numpy() + parameters["two"]["bias"]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = {}
        for layer in ("one", "two"):
            rows = np.hstack([inputs[layer], np.ones([6, 1])])
            a, g = rows.T @ rows / 6, 0
            for k in range(2):
                back = p - np.eye(2)[k]
                if layer == "one":
                    back = (back @ parameters["two"]["kernel"].numpy().T) * (1 - inputs["two"] ** 2)
                g = g + (back * p[:, k : k + 1]).T @ back / 6
            keep = min(step / (step + 1), 0.6)
            olds = running.get(layer, (0, 0))
            a, g = running[layer] = [
                keep * old + (1 - keep) * new for old, new in zip(olds, (a, g), strict=True)
            ]
            pi = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
            root = np.sqrt(0.2 + DECAY)
            whole = np.kron(a + pi * root * np.eye(len(a)), g + root / pi * np.eye(len(g)))
            solved = np.linalg.inv(whole) @ matrix(gradient, layer).ravel()
            expected[layer] = -0.5 * solved.reshape(len(a), len(g))
            if last is not None:
                expected[layer] += 0.7 * last[layer]
        moved, state, _, metrics = optimizer.step(objective(), parameters, state)
        for layer in ("one", "two"):
            change = matrix(moved, layer) - matrix(parameters, layer)
            np.testing.assert_allclose(change, expected[layer], rtol=1e-9)
        np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(flat(gradient)))
        parameters, last = moved, expected


def test_the_factors_are_taken_on_the_first_examples():
    """An eighth of the batch, but 32 examples if there are so many; the gradient is all's."""
    random = np.random.default_rng(5)
    x, y = random.normal(size=(320, 3)), random.integers(0, 2, 320)

    def taken(count, share=0.125):
        optimizer = kfac.KFAC(1.0, 0.1, momentum=0.0, fisher="exact", factor_share=share)
        batch = mlhf.Objective(network, "softmax_cross_entropy", x[:count], y[:count])
        return optimizer.step(batch, START, optimizer.init(START))

    for count, part in ((320, 40), (64, 32), (20, 20)):
        found, right = taken(count).state, taken(part, 1.0).state
        for a, b in zip(
            tf.nest.flatten(found.factors), tf.nest.flatten(right.factors), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        assert (count == part) == np.allclose(flat(found.update), flat(right.update))
    whole = taken(320, 1.0).state.factors["one/kernel"][0]
    assert np.abs(whole - taken(320).state.factors["one/kernel"][0]).max() > 0.01


def test_the_quadratic_model_gives_rate_momentum_and_damping():
    optimizer = kfac.KFAC(
        damping=0.2, fisher="exact", damping_type="LM_heuristics", adapt_every=2, inverse_every=1
    )
    fixed = kfac.KFAC(1.0, 0.2, momentum=0.0, fisher="exact", inverse_every=1)
    parameters, state = START, optimizer.init(START)
    last, damping = np.zeros(26), 0.2
    for step in range(4):
        gradient = flat(gradient_at(parameters))
        curvature = custom_op.gauss_newton(
            lambda p: network(p, X), parameters, "softmax_cross_entropy", Y
        )
        dense = curvature.to_dense().numpy() + (DECAY + damping) * np.eye(26)
        # What a step of rate 1 without momentum does from the same state is Δ.
        alone = fixed.step(objective(), parameters, state)
        proposal = flat(alone.parameters) - flat(parameters)
        directions = [proposal, last] if step else [proposal]
        basis = np.stack(directions, 1)
        best = np.linalg.solve(basis.T @ dense @ basis, -basis.T @ gradient)
        update = basis @ best
        moved, state, _, metrics = optimizer.step(objective(), parameters, state)
        np.testing.assert_allclose(flat(moved) - flat(parameters), update, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(metrics["learning_rate"], best[0], rtol=1e-7)
        np.testing.assert_allclose(metrics["momentum"], best[1] if step else 0, rtol=1e-6)
        assert float(metrics["damping"]) == pytest.approx(damping)
        if step % 2 == 1:
            value = [float(objective().linearize(p).value) for p in (moved, parameters)]
            ratio = (value[0] - value[1]) / (gradient @ update + update @ dense @ update / 2)
            omega = (19 / 20) ** 2
            damping *= omega if ratio > 0.75 else 1 / omega if ratio < 0.25 else 1
        parameters, last = moved, update
    assert damping != 0.2


def test_inverses_are_as_old_as_they_may_be():
    optimizer = kfac.KFAC(0.1, inverse_every=5)
    parameters, state = START, optimizer.init(START)
    inverses = []
    for _ in range(11):
        parameters, state, _, _ = optimizer.step(objective(), parameters, state)
        inverses.append(state.inverses["one/kernel"][1].numpy())
    changes = [
        step + 1 for step in range(10) if not np.array_equal(inverses[step], inverses[step + 1])
    ]
    assert changes == [1, 2, 5, 10]


def test_layers_that_compute_in_another_dtype_and_such_as_get_no_gradient():
    half = tf.bfloat16

    def network(p, x):
        h = tf.cast(x, half) @ tf.cast(p["one"]["kernel"], half) + tf.cast(p["one"]["bias"], half)
        return tf.tanh(tf.cast(h, tf.float32)) @ p["two"] + tf.stop_gradient(x @ p["three"])

    parameters = {
        "one": {"kernel": tf.constant(RANDOM.normal(size=(3, 4)), tf.float32),
                "bias": tf.zeros([4])},
        "two": tf.constant(RANDOM.normal(size=(4, 2)), tf.float32),
        "three": tf.ones([3, 2]),
    }  # fmt: skip
    optimizer = kfac.KFAC(0.1, fisher="exact")
    batch = mlhf.Objective(network, "softmax_cross_entropy", tf.cast(X, tf.float32), Y)
    step = optimizer.step(batch, parameters, optimizer.init(parameters))
    np.testing.assert_array_equal(step.parameters["three"], parameters["three"])
    np.testing.assert_array_equal(step.state.factors["three"][1], np.zeros([2, 2]))
    rows = np.hstack([X, np.ones([6, 1])])
    np.testing.assert_allclose(step.state.factors["one/kernel"][0], rows.T @ rows / 6, atol=0.02)
    assert float(tf.reduce_max(tf.abs(step.state.update["one"]["bias"]))) > 1e-4


@pytest.mark.parametrize("stock", [True, False])
def test_a_keras_model_with_convolutions_and_normalisation(stock):
    from train_val.networks.normalization import ExactBatchNormalization

    keras.utils.set_random_seed(2)
    norm = keras.layers.BatchNormalization if stock else ExactBatchNormalization
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, use_bias=False, name="conv1"),
            norm(name="norm1"),
            keras.layers.ReLU(),
            keras.layers.Conv2D(4, 3, 2, "same", activation="tanh", name="conv2"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="dense"),
        ],
        name="small",
    )
    x = RANDOM.normal(size=(24, 6, 6, 2)).astype("f")
    y = np.argmax(x.mean((1, 2)) @ [[1, 0, -1], [0, 1, -1]], 1)
    optimizer = kfac.KFAC(damping=0.1)
    parameters, state, model_state = mlhf.get_parameters(model), optimizer.init(model), None
    before, losses = mlhf.get_model_state(model), []
    for _ in range(12):
        objective = mlhf.Objective(model, "softmax_cross_entropy", x, y, model_state)
        parameters, state, model_state, metrics = optimizer.step(objective, parameters, state)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.2 * losses[0]
    assert any(np.any(model_state[name] != before[name]) for name in before)


def refused(function, parameters, message, loss="squared_error"):
    optimizer = kfac.KFAC(0.1)
    outputs = function(parameters, X)
    targets = mlhf.Objective(function, loss, X, tf.zeros_like(outputs))
    with pytest.raises(ValueError, match=message):
        optimizer.step(targets, parameters, optimizer.init(parameters))


def test_what_it_can_not_do_is_refused():
    w, b = tf.ones([3, 3], tf.float64), tf.ones([3], tf.float64)
    refused(lambda p, x: tf.tanh(x @ p["w"]) @ p["w"], {"w": w}, "'w' .* used 2 times")
    refused(lambda p, x: x @ tf.exp(p["w"]), {"w": w}, "'w' .* used by Exp.* another optimizer")
    refused(lambda p, x: tf.tanh(x @ p["w"]) + p["b"], {"w": w, "b": b}, "bias that is not added")
    refused(
        lambda p, x: x * tf.reduce_sum(p["v"]),
        {"v": tf.ones([2], tf.float64)},
        "'v' .* not a scale or a shift",
    )
    with pytest.raises(TypeError, match="to return one tensor of outputs, .* got a tuple of 2"):
        pair = mlhf.Objective(lambda p, x: (x @ p["w"], x), "squared_error", X, X)
        kfac.KFAC(0.1).step(pair, {"w": w}, kfac.KFAC(0.1).init({"w": w}))
    with pytest.raises(ValueError, match=r"got the parameter 'w' of shape \(1, 2, 3\)"):
        kfac.KFAC().init({"w": tf.ones([1, 2, 3])})

    class Own(custom_op.losses.Loss):
        def value(self, outputs, targets):
            return tf.reduce_mean(tf.abs(outputs - targets))

        def gradient(self, outputs, targets):
            return tf.sign(outputs - targets)

    Own.__abstractmethods__ = frozenset()  # its Hessian is not reached
    refused(lambda p, x: x @ p["w"], {"w": w}, "got Own, whose targets have no known", Own())


@pytest.mark.parametrize(
    "name, value",
    [
        ("learning_rate", 0),
        ("damping", 0),
        ("damping", "small"),
        ("decay", 1),
        ("inverse_every", 0),
        ("damping_type", "LM"),
        ("adapt_every", 0.5),
        ("fisher", "empirical"),
        ("momentum", 0.9),
        ("seed", 2**31),
    ],
)
def test_bad_arguments_are_refused_at_construction(name, value):
    with pytest.raises(ValueError, match=f"^Expected {name}.*got {value!r}"):
        kfac.KFAC(**{name: value})


def test_a_rate_that_is_set_later_holds():
    optimizer = mlhf.KFAC(damping=0.1)
    state = optimizer.init(START)
    own = optimizer.step(objective(), START, state).metrics["learning_rate"]
    assert float(own) > 0.01
    optimizer.learning_rate = 1e-4
    metrics = optimizer.step(objective(), START, state).metrics
    assert (float(metrics["learning_rate"]), float(metrics["momentum"])) == (1e-4, 0.9)
    optimizer.learning_rate = None
    assert optimizer.step(objective(), START, state).metrics["learning_rate"] == own
