"""What a problem accepts, refuses, and replays."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf import hypergrad as hg
from mlhf.hypergrad.binding import bind

D = tf.float64
WEIGHTS = {"w": tf.constant([0.5, -1.0, 2.0], D)}


def quadratic(w, h, step):
    return tf.reduce_sum(h["l2"] * w["w"] ** 2) + tf.reduce_sum(tf.sin(w["w"]))


def distance(w, h):
    return tf.reduce_sum((w["w"] - 1) ** 2)


def make(train=quadratic, outer=distance, steps=4, **options):
    options.setdefault("dynamics", hg.GradientDescent(0.1))
    return hg.Problem(train, outer, steps=steps, **options)


def test_batches_come_backwards_in_the_backward_pass():
    asked = []
    data = np.random.default_rng(0).normal(size=[5, 3])

    def supply(step):
        asked.append(step)
        return data[step]

    def loss(w, h, step, batch):
        return tf.reduce_sum((w["w"] - batch) ** 4) * h["scale"]

    def graph_loss(w, h, step):
        return tf.reduce_sum((w["w"] - tf.gather(tf.constant(data), step)) ** 4) * h["scale"]

    hyper = {"scale": 0.1, "learning_rate": 0.05}
    problem = make(loss, steps=5, batches=supply)
    trained = hg.train(problem, WEIGHTS, hyper)
    del asked[:]
    result = hg.reverse(problem, WEIGHTS, hyper)
    # Some steps are compared with what was recorded and ask twice.
    backward = list(dict.fromkeys(asked[5:]))
    assert asked[:5] == [0, 1, 2, 3, 4] and backward == [4, 3, 2, 1, 0]
    inside = hg.reverse(make(graph_loss, steps=5), WEIGHTS, hyper)
    for name in hyper:
        np.testing.assert_allclose(
            result.hypergradient[name], inside.hypergradient[name], rtol=1e-13
        )
    np.testing.assert_array_equal(result.weights["w"], trained.weights["w"])


def test_what_a_supplier_raises_is_what_a_user_sees():
    def supply(step):
        if step == 2:
            raise TypeError("a fault of the supplier's own")
        return np.ones(3)

    def loss(w, h, step, batch):
        return tf.reduce_sum((w["w"] - batch) ** 2) * h["scale"]

    with pytest.raises(TypeError, match="a fault of the supplier's own"):
        hg.reverse(make(loss, batches=supply), WEIGHTS, {"scale": 0.1})
    uneven = make(loss, batches=lambda step: np.ones(3 if step < 2 else 2))
    with pytest.raises(ValueError, match=r"batches\(2\) of the shape"):
        hg.reverse(uneven, WEIGHTS, {"scale": 0.1})
    with pytest.raises(ValueError, match="batches= together with"):
        make(loss)


def test_minibatches_are_epochs_of_a_pure_function():
    data = np.arange(10.0), np.arange(10)
    batches = hg.Minibatches(data, 3, steps=7, seed=1)
    first = np.concatenate([batches(step)[1] for step in range(3)])
    assert len(set(first)) == 9
    np.testing.assert_array_equal(batches(5)[0], hg.Minibatches(data, 3, 7, seed=1)(5)[0])
    assert (batches.indices != hg.Minibatches(data, 3, 7, seed=2).indices).any()
    plain = hg.Minibatches(data, 4, steps=3, shuffle=False)
    np.testing.assert_array_equal(plain.indices[2], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="batch_size from 1 to 10"):
        hg.Minibatches(data, 11, 2)


def test_every_seed_has_its_order_of_minibatches_and_all_methods_the_same():
    data = np.random.default_rng(0).normal(size=[10, 3])

    def loss(w, h, step, batch):
        return tf.reduce_sum((w["w"] - batch) ** 4) * h["scale"] / 3

    batches = hg.Minibatches(data, 3, steps=7)
    options = {"batches": batches, "steps": 7, "dynamics": hg.Momentum(0.02, 0.5)}
    problem, hyper = make(loss, **options), {"scale": 0.1, "learning_rate": 0.05}
    orders = [np.stack([batches(step, seed) for step in range(7)]) for seed in range(3)]
    np.testing.assert_array_equal(orders[0], data[batches.indices])
    for order in orders:
        for epoch in (order[:3], order[3:6]):
            assert len(np.unique(epoch.reshape(9, 3), axis=0)) == 9
    results = [hg.reverse(problem, WEIGHTS, hyper, seed=seed) for seed in range(3)]
    assert len({float(result.valid_loss) for result in results}) == 3

    # The order of a seed as a supplier of its own.
    told = make(loss, **{**options, "batches": lambda step: orders[2][step]})
    expected = hg.reverse(told, WEIGHTS, hyper)
    np.testing.assert_array_equal(results[2].weights["w"], expected.weights["w"])
    for method, more in [
        (hg.forward, {}),
        (hg.reversible, {}),
        (hg.reverse, {"storage": "checkpoints"}),
        (hg.truncated, {"window": 7}),
    ]:
        found = method(problem, WEIGHTS, hyper, seed=2, **more)
        for name, value in expected.hypergradient.items():
            np.testing.assert_allclose(found.hypergradient[name], value, rtol=1e-9)

    fixed = hg.Minibatches(data, 3, steps=7, shuffle=False)
    np.testing.assert_array_equal(fixed(2, 5), data[6:9])
    with pytest.raises(ValueError, match="at least the 8 steps of training, got 7.*steps=8"):
        make(loss, **{**options, "steps": 8})
    with pytest.raises(ValueError, match="positive number of steps, got 0"):
        hg.Minibatches(data, 3, steps=0)


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


def test_detached_hyperparameters_are_named():
    hyper = {"l2": 0.1, "typo": 0.3}
    for method in (hg.reverse, hg.forward, hg.train, hg.truncated):
        with pytest.raises(ValueError, match="'typo' has no influence"):
            method(make(), WEIGHTS, hyper)
    # A term that does not change the gradient, and a copy that no gradient passes.
    constant = make(lambda w, h, step: quadratic(w, h, step) + h["typo"])
    stopped = make(lambda w, h, step: tf.stop_gradient(h["typo"]) * quadratic(w, h, step))
    for problem in (constant, stopped):
        with pytest.raises(ValueError, match="'typo' has no influence"):
            hg.reverse(problem, WEIGHTS, hyper)
    nested = {"l2": {"used": 0.1, "loose": 0.2}}
    with pytest.raises(ValueError, match="'l2/loose' has no influence"):
        hg.reverse(
            make(lambda w, h, step: tf.reduce_sum(h["l2"]["used"] * w["w"] ** 2)), WEIGHTS, nested
        )


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


def test_training_that_diverges_is_told():
    problem = make(lambda w, h, step: h["l2"] * tf.reduce_sum(w["w"] ** 4), steps=40)
    hyper = {"l2": 1.0, "learning_rate": 5.0}
    for method in (hg.train, hg.reverse, hg.forward):
        with pytest.raises(hg.DivergedError, match="not finite from step"):
            method(problem, WEIGHTS, hyper)
    # Finite, and of no use: a saddle that each step leaves by a factor of 3.
    saddle = make(lambda w, h, step: -h["l2"] * tf.reduce_sum(w["w"] ** 2) / 2, steps=20)
    hyper = {"l2": 1.0, "learning_rate": 2.0}
    with pytest.raises(hg.DivergedError, match="grew from"):
        hg.reverse(saddle, WEIGHTS, hyper)
    exact = hg.reverse(saddle, WEIGHTS, hyper, largest_growth=None)
    w = np.array([0.5, -1.0, 2.0])
    # w_T = 3^20 w, dw_T/dη = 20 · 3^19 w.
    expected = np.sum(2 * (3.0**20 * w - 1) * 20 * 3.0**19 * w)
    np.testing.assert_allclose(exact.hypergradient["learning_rate"], expected, rtol=1e-12)


def test_adam_where_a_gradient_is_zero():
    problem = make(
        lambda w, h, step: h["l2"] * tf.reduce_sum(w["w"][:2] ** 2), dynamics=hg.Adam(0.01)
    )
    result = hg.reverse(problem, WEIGHTS, {"l2": 0.1, "learning_rate": 0.01})
    assert np.isfinite(as_flat(result.hypergradient)).all()
    assert result.weights["w"][2] == 2.0


def as_flat(structure):
    return np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(structure)])


def test_shapes_of_the_dynamics_hyperparameters():
    weights = {"a": tf.ones([2], D), "b": tf.ones([3], D)}

    def loss(w, h, step):
        return tf.reduce_sum(w["a"] ** 2) + tf.reduce_sum(w["b"] ** 2)

    def outer(w, h):
        return tf.reduce_sum(w["a"]) + 3 * tf.reduce_sum(w["b"])

    problem = make(loss, outer, steps=4)

    def rates(value):
        training, _, hyper = bind(problem, weights, {"learning_rate": value})
        rows = training.resolver.rows(hyper, 2)
        return np.array(training.resolver.dynamics_values(rows)["learning_rate"])

    by_step = np.array([0.1, 0.2, 0.3, 0.4])
    both = np.arange(8.0).reshape(4, 2) / 10
    per_weight = {"a": np.array([0.1, 0.2]), "b": np.array([0.3, 0.4, 0.5])}
    stacked = {name: value * by_step[:, None] for name, value in per_weight.items()}
    assert rates(0.1) == 0.1 and rates(by_step) == 0.3 and rates(by_step[:, None]) == 0.3
    for value in (np.array([0.1, 0.2]), np.array([[0.1, 0.2]]), {"a": 0.1, "b": 0.2}):
        np.testing.assert_array_equal(rates(value), [0.1, 0.1, 0.2, 0.2, 0.2])
    np.testing.assert_array_equal(rates(both), [0.4, 0.4, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(rates(per_weight), [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(rates(stacked), 0.3 * np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    # w_T = Π (1 - 2 η_t) for each weight.
    found = hg.reverse(problem, weights, {"learning_rate": stacked}).hypergradient["learning_rate"]
    factors = 1 - 2 * stacked["b"]
    expected = -2 * 3 * np.prod(factors, 0) / factors
    np.testing.assert_allclose(found["b"], expected, rtol=1e-12)

    with pytest.raises(ValueError, match="shape .*3"):
        rates(np.ones(3))
    with pytest.raises(ValueError, match="a structure like the weights"):
        rates({"a": 0.1})
    two = make(loss, outer, steps=2)
    with pytest.raises(ValueError, match=r"tell steps from groups.*\[2, 1\].*\[1, 2\]"):
        bind(two, weights, {"learning_rate": np.array([0.1, 0.2])})
    one_group = make(loss, outer, groups={"a": "all", "b": "all"}, steps=4)
    assert bind(one_group, weights, {"learning_rate": by_step})[0].flat.groups == ["all"]


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


def test_operations_with_wrong_second_derivatives_are_refused():
    def standardised(w, h, step):
        mean, variance = tf.nn.moments(w["w"], [0])
        return h["l2"] * tf.reduce_sum(((w["w"] - mean) / tf.sqrt(variance)) ** 3)

    with pytest.raises(ValueError, match="tf.nn.moments"):
        hg.reverse(make(standardised), WEIGHTS, {"l2": 0.1})
    bind(make(standardised, check_layers=False), WEIGHTS, {"l2": 0.1})

    x = tf.constant([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]], D)

    def cross_entropy(own):
        def loss(w, h, step):
            logits = x * w["w"]
            targets = tf.nn.softmax(h["labels"])
            if own:
                return tf.reduce_mean(hg.softmax_cross_entropy(targets, logits))
            return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))

        return loss

    labels = np.array([[0.3, -0.2, 0.5], [0.1, 0.9, -0.3]])
    with pytest.raises(ValueError, match="'labels'.*wrong to second order"):
        hg.reverse(make(cross_entropy(False)), WEIGHTS, {"labels": labels})

    def end(labels):
        targets = np.exp(labels) / np.exp(labels).sum(-1, keepdims=True)
        w = WEIGHTS["w"].numpy()
        p = np.exp(x * w) / np.exp(x * w).sum(-1, keepdims=True)
        w = w - 0.1 * np.mean((p - targets) * x.numpy(), 0)
        return np.sum((w - 1) ** 2)

    found = hg.reverse(make(cross_entropy(True), steps=1), WEIGHTS, {"labels": labels})
    expected = np.zeros([2, 3])
    for index in np.ndindex(2, 3):
        shift = np.zeros([2, 3])
        shift[index] = 1e-5
        expected[index] = (end(labels + shift) - end(labels - shift)) / 2e-5
    np.testing.assert_allclose(found.hypergradient["labels"], expected, rtol=1e-6, atol=1e-9)


def test_targets_are_followed_into_functions_loops_and_branches():
    x = tf.constant([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]], D)

    def cross_entropy(w, targets):
        entropy = tf.nn.softmax_cross_entropy_with_logits(targets, x * w["w"])
        return tf.reduce_mean(entropy)

    called = tf.function(cross_entropy)
    nested = tf.function(lambda w, targets: 2 * called(w, tf.nn.softmax(targets)))

    @tf.function
    def prepared(targets, l2):
        return tf.nn.softmax(targets), l2**2

    def looped(w, targets):
        # The targets arrive in the second round.
        def body(i, total, waiting, ready):
            return i + 1, total + cross_entropy(w, ready), waiting, waiting

        start = [0, tf.zeros([], D), targets, tf.zeros_like(targets)]
        return tf.while_loop(lambda i, *_: i < 3, body, start, maximum_iterations=3)[1]

    def chosen(w, targets):
        return tf.cond(
            w["w"][0] > 0, lambda: cross_entropy(w, targets), lambda: tf.reduce_sum(w["w"] ** 2)
        )

    hyper = {"labels": np.array([[0.3, -0.2, 0.5], [0.1, 0.9, -0.3]]), "l2": 0.1}
    for loss in (called, nested, looped, chosen):

        def train(w, h, step, loss=loss):
            targets, l2 = prepared(h["labels"], h["l2"])
            return loss(w, targets) + l2 * tf.reduce_sum(w["w"] ** 2)

        def fixed(w, h, step, loss=loss):
            # The same functions; only their other argument depends on a hyperparameter.
            targets, l2 = prepared(tf.zeros([2, 3], D), h["l2"])
            return loss({"w": l2 * w["w"]}, targets)

        with pytest.raises(ValueError, match="'labels'.*wrong to second order"):
            bind(make(train), WEIGHTS, hyper)
        bind(make(fixed), WEIGHTS, {"l2": 0.1})


def test_products_with_the_hessian_of_a_network():
    rng = np.random.default_rng(0)
    weights = {
        "k1": tf.constant(rng.normal(size=[3, 4])),
        "b1": tf.constant(rng.normal(size=[4])),
        "k2": tf.constant(rng.normal(size=[4, 2])),
    }
    x = tf.constant(rng.normal(size=[5, 3]))
    y = tf.constant(rng.normal(size=[5, 2]))

    def loss(w, h, step):
        return tf.reduce_mean((tf.tanh(x @ w["k1"] + w["b1"]) @ w["k2"] - y) ** 2) * h["scale"]

    problem = make(loss, lambda w, h: tf.reduce_sum(w["k2"]))
    training, weights, hyper = bind(problem, weights, {"scale": tf.constant(1.5, D)})
    vector, seed = training.flat.flatten(weights), tf.constant(0)
    direction = rng.normal(size=vector.shape)

    def gradient(w, scale=1.5):
        rows = {"scale": tf.constant(scale, D)}
        return training.gradient(tf.constant(w), rows, tf.constant(0), seed)[1].numpy()

    columns = []
    for unit in np.eye(vector.shape[0]) * 1e-5:
        columns.append((gradient(vector + unit) - gradient(vector - unit)) / 2e-5)
    hessian = np.stack(columns, 1)
    assert np.abs(hessian[:12, 16:]).max() > 1e-2
    found = training.gradient_vjp(
        tf.constant(vector), tf.constant(direction), hyper, tf.constant(0), seed
    )
    np.testing.assert_allclose(found.in_weights, hessian @ direction, rtol=1e-7, atol=1e-8)
    mixed = (gradient(vector, 1.5 + 1e-5) - gradient(vector, 1.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(found.in_rows[0], mixed @ direction, rtol=1e-7)
    np.testing.assert_array_equal(found.gradient, gradient(vector))


def test_a_keras_model_with_dropout():
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[12, 4]).astype("float32"), rng.integers(0, 3, 12)
    train_loss, valid_loss = hg.keras_losses(
        model,
        "softmax_cross_entropy",
        valid_data=(x, y),
        regularizer=lambda w, h: h["l2"] * tf.add_n([tf.reduce_sum(v**2) for v in w.values()]),
    )
    problem = make(
        train_loss, valid_loss, batches=hg.Minibatches((x, y), 4, 4), dynamics=hg.Momentum(0.2)
    )
    hyper = {"l2": 0.01, "learning_rate": 0.2}
    before = mlhf.get_model_state(model)
    reverse = hg.reverse(problem, model, hyper)
    forward = hg.forward(problem, mlhf.get_parameters(model), hyper)
    other = hg.reverse(problem, model, hyper, seed=3)
    for name in hyper:
        np.testing.assert_allclose(
            reverse.hypergradient[name], forward.hypergradient[name], rtol=1e-4
        )
    assert other.valid_loss != reverse.valid_loss
    for path, value in mlhf.get_model_state(model).items():
        np.testing.assert_array_equal(value, before[path])
    mlhf.set_parameters(model, reverse.weights)

    normed = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(5), keras.layers.BatchNormalization()]
    )
    train_loss, valid_loss = hg.keras_losses(normed, "softmax_cross_entropy", valid_data=(x, y))
    bad = make(train_loss, valid_loss, batches=hg.Minibatches((x, y), 4, 4))
    with pytest.raises(ValueError, match="training=False"):
        hg.reverse(bad, normed, {"learning_rate": 0.1})


def test_a_keras_model_with_losses_of_its_own_is_refused():
    import keras

    x, y = np.ones([4, 3], "float32"), np.zeros(4, np.int64)
    for name in ("kernel_regularizer", "activity_regularizer"):
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2, **{name: "l2"})])
        losses = hg.keras_losses(model, "softmax_cross_entropy", valid_data=(x, y))
        problem = make(*losses, batches=hg.Minibatches((x, y), 4, 4))
        with pytest.raises(ValueError, match=r"losses of its own.*keras_losses\(regularizer="):
            bind(problem, model, {"learning_rate": 0.1})


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


def test_what_is_not_finite_is_told_apart():
    hyper = {"l2": 0.1}

    def bent(w, h, step):
        # The first weight stays at 0.5, where x ↦ (x - ½)^1.5 has a slope and no curvature.
        return h["l2"] * tf.reduce_sum(w["w"][1:] ** 2) + (w["w"][0] - 0.5) ** 1.5

    def distance(w, h):
        return tf.reduce_sum((w["w"] - 1) ** 2)

    options = {"dynamics": hg.Momentum(0.1), "steps": 3}
    whole = make(outer=distance, **options)
    bad_step = make(bent, distance, **options)
    bad_end = make(outer=lambda w, h: np.nan * distance(w, h), **options)
    with pytest.raises(ValueError, match="finite hyperparameters, got some of 'l2'"):
        hg.reverse(whole, WEIGHTS, {"l2": np.nan})
    for method in (hg.reverse, hg.reversible, hg.drmad):
        with pytest.raises(hg.DivergedError, match="at the last weights is not finite: the outer"):
            method(bad_end, WEIGHTS, hyper)
    for method in (hg.reverse, hg.reversible):
        with pytest.raises(hg.DivergedError, match="1 steps before the end: an operation"):
            method(bad_step, WEIGHTS, hyper)
