"""Weighted sums of objectives: against dense matrices, and in every optimizer's step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf

RANDOM = np.random.default_rng(0)
X, EDGE, DATA = RANDOM.normal(size=(5, 2)), RANDOM.normal(size=(3, 2)), RANDOM.normal(size=(4, 2))
Y, LABELS = RANDOM.normal(size=(5, 1)), np.array([0, 2, 1, 1])
OF_EXAMPLES = np.array([1.0, 0.0, 3.0, 0.5, 2.0])
WEIGHTS = {"edge": 2.5, "data": 0.3}
W = {
    "dense": {"kernel": RANDOM.normal(size=(2, 3)), "bias": RANDOM.normal(size=3)},
    "coefficient": np.array(1.5),
}


def inside(parameters, x):
    hidden = tf.tanh(x @ parameters["dense"]["kernel"] + parameters["dense"]["bias"])
    return parameters["coefficient"] * tf.reduce_sum(hidden, 1, keepdims=True)


def logits(parameters, x):
    return x @ parameters["dense"]["kernel"] + parameters["dense"]["bias"]


def point(dtype=tf.float64):
    return tf.nest.map_structure(lambda leaf: tf.constant(leaf, dtype), W)


def terms(dtype=tf.float64, examples=OF_EXAMPLES, labels=LABELS):
    def cast(*arrays):
        return [tf.constant(a, dtype) for a in arrays]

    return {
        "inside": mlhf.Objective(
            inside,
            "squared_error",
            *cast(X, Y),
            weights=None if examples is None else tf.constant(examples, dtype),
        ),
        "edge": mlhf.Objective(inside, "squared_error", *cast(EDGE, np.ones((3, 1)))),
        "data": mlhf.Objective(
            logits, "softmax_cross_entropy", cast(DATA)[0], tf.constant(labels, tf.int32)
        ),
    }


def total(weights=WEIGHTS, regularizer=None, **of_terms):
    return mlhf.ObjectiveSum(terms(**of_terms), weights, regularizer)


def dense():
    """The value, gradient and Gauss-Newton matrix of the sum, in NumPy by complex steps."""
    w = flat(W)
    steps = np.concatenate([w[None], w + 1e-40j * np.eye(len(w))])

    def outputs(x, is_logits):
        kernel, bias = steps[:, 4:].reshape(-1, 2, 3), steps[:, None, 1:4]
        z = x @ kernel + bias
        return z if is_logits else (steps[:, :1] * np.tanh(z).sum(2))[..., None]

    value, gradient, matrix = 0.0, 0.0, 0.0
    for name, weight in {"inside": 1.0, **WEIGHTS}.items():
        z = outputs({"inside": X, "edge": EDGE, "data": DATA}[name], name == "data")
        jacobian = z[1:].imag.reshape(len(w), -1).T / 1e-40
        z = z[0].real
        if name == "data":
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            residual = p - np.eye(3)[LABELS]
            hessian = np.zeros((4, 3, 4, 3))
            for i, row in enumerate(p):
                hessian[i, :, i] = np.diag(row) - np.outer(row, row)
            hessian = hessian.reshape(12, 12)
            loss = -np.log(p[np.arange(4), LABELS]).sum()
        else:
            of_examples = OF_EXAMPLES[:, None] if name == "inside" else np.ones((3, 1))
            error = z - (Y if name == "inside" else 1)
            residual, loss = of_examples * error, 0.5 * (of_examples * error**2).sum()
            hessian = np.diag(of_examples[:, 0])
        scale = weight / len(z)
        value += scale * loss
        gradient += scale * jacobian.T @ residual.reshape(-1)
        matrix += scale * jacobian.T @ hessian @ jacobian
    return value, gradient, matrix


def flat(structure):
    return np.concatenate([np.reshape(leaf, -1) for leaf in tf.nest.flatten(structure)])


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_value_gradient_and_products_are_those_of_dense_matrices(mode):
    v = RANDOM.normal(size=10)
    parts = np.split(v, [1, 4])
    vector = {
        "coefficient": tf.constant(parts[0][0]),
        "dense": {"bias": tf.constant(parts[1]), "kernel": tf.constant(parts[2].reshape(2, 3))},
    }

    def everything(objective, parameters):
        linearized = objective.linearize(parameters)
        return (
            linearized.value,
            objective.data_loss(parameters),
            linearized.gradient(),
            linearized.curvature_product(vector),
            linearized.curvature_along(vector),
        )

    run = {
        "eager": everything,
        "graph": tf.function(everything),
        "xla": tf.function(everything, jit_compile=True),
    }[mode]
    value, data_loss, gradient, product, along = run(total(), point())
    expected, g, G = dense()
    np.testing.assert_allclose([value, data_loss], [expected] * 2, rtol=1e-13)
    np.testing.assert_allclose(flat(gradient), g, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(flat(product), G @ v, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(along, v @ G @ v, rtol=1e-11)


def test_the_regularizer_is_the_sums_own_and_not_weighted():
    plain, with_decay = total(), total(regularizer=mlhf.L2(0.1))
    a, b = plain.linearize(point()), with_decay.linearize(point())
    np.testing.assert_allclose(b.value - a.value, 0.05 * np.sum(flat(W) ** 2), rtol=1e-12)
    np.testing.assert_allclose(flat(b.gradient()) - flat(a.gradient()), 0.1 * flat(W), rtol=1e-11)
    np.testing.assert_allclose(b.data_loss, a.data_loss, rtol=1e-15)


def test_the_first_examples_are_those_of_every_term():
    half = total().first_examples(0.5)
    assert {n: t.shape[0] for n, t in half.targets.items()} == {"inside": 2, "edge": 2, "data": 2}
    assert half.batch_size() == 6 and total().batch_size() == 12
    expected = terms()["inside"]
    assert half.terms[2].name == "inside"
    np.testing.assert_array_equal(half.terms[2].objective.weights, OF_EXAMPLES[:2])
    np.testing.assert_array_equal(half.terms[2].objective.inputs, expected.inputs[:2])
    assert half.term_weights == total().term_weights


OPTIMIZERS = {
    "hf": lambda: mlhf.HessianFree(0.5, 0.1),
    "martens": lambda: mlhf.MartensHessianFree(0.1, 20),
    "Adam": lambda: mlhf.FirstOrder(keras.optimizers.Adam(0.05)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_step_on_it_and_report_each_term(name):
    optimizer, parameters = OPTIMIZERS[name](), point(tf.float32)
    state = optimizer.init(parameters)
    losses = []
    for _ in range(6):
        before = {
            t.name: float(t.objective.data_loss(parameters)) for t in total(dtype=tf.float32).terms
        }
        parameters, state, model_state, metrics = optimizer.step(
            total(dtype=tf.float32), parameters, state
        )
        assert model_state is None
        for term, loss in before.items():
            np.testing.assert_allclose(metrics[f"loss_{term}"], loss, rtol=1e-5)
        losses.append(float(metrics["loss"]))
        expected = before["inside"] + 2.5 * before["edge"] + 0.3 * before["data"]
        np.testing.assert_allclose(losses[-1], expected, rtol=1e-5)
    assert losses[-1] < losses[0]
    assert len(optimizer._compiled) == 1


def test_a_weight_that_is_a_tensor_changes_without_compiling_again():
    optimizer, parameters = mlhf.FirstOrder(keras.optimizers.SGD(0.1)), point()
    state = optimizer.init(parameters)
    losses = []
    for weight in (1.0, 3.0):
        weights = {"edge": tf.constant(weight)}
        step = optimizer.step(mlhf.ObjectiveSum(terms(), weights), parameters, state)
        losses.append(step.metrics["loss"])
    edge = terms()["edge"].data_loss(parameters)
    np.testing.assert_allclose(losses[1] - losses[0], 2 * edge, rtol=1e-12)
    assert len(optimizer._compiled) == 1


def test_a_label_out_of_range_is_found_in_any_term():
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(0.1), jit_compile=True)
    state = optimizer.init(point())
    optimizer.step(total(), point(), state)
    with pytest.raises(ValueError, match="7"):
        optimizer.step(total(labels=np.array([0, 7, 1, 1])), point(), state)


def test_model_states_stand_under_their_terms_names():
    def counting(parameters, state, x):
        return logits(parameters, x), {"calls": state["calls"] + 1}

    state = {"calls": tf.constant(0)}
    counted = mlhf.Objective(counting, "squared_error", X, np.zeros((5, 3)), state)
    both = mlhf.ObjectiveSum({"a": counted, "b": terms()["edge"]})
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(0.1))
    step = optimizer.step(both, point(), optimizer.init(point()))
    assert int(step.model_state["a"]["calls"]) == 1
    again = both.on(both.inputs, both.targets, step.model_state)
    assert int(again.linearize(point()).model_state["a"]["calls"]) == 2


def test_kfac_refuses_sums():
    optimizer, parameters = mlhf.KFAC(), {"dense": point()["dense"]}
    state = optimizer.init(parameters)
    x = mlhf.Objective(logits, "squared_error", X, np.zeros((5, 3)), weights=OF_EXAMPLES)
    with pytest.raises(ValueError, match="a sum of 2 terms"):
        optimizer.step(mlhf.ObjectiveSum({"a": x, "b": x}), parameters, state)


def test_a_parameter_that_no_term_reads_is_named():
    more = {**point(), "idle": tf.constant(0.0, tf.float64)}
    with pytest.raises(ValueError, match="idle"):
        total().linearize(more)
    alone = mlhf.Objective(logits, "squared_error", X, np.zeros((5, 3)), unconnected="zero")
    assert float(alone.linearize(more).gradient()["idle"]) == 0
    with pytest.raises(ValueError, match="unconnected"):
        mlhf.Objective(logits, "squared_error", X, np.zeros((5, 3)), unconnected="none")


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], TypeError, "by name"),
        ({}, ValueError, "at least one"),
        ({"a": inside}, TypeError, "mlhf.Objective"),
        ({3: terms()["edge"]}, TypeError, "names"),
        ({"a": total()}, TypeError, "put its terms"),
        (
            {"a": mlhf.Objective(logits, "squared_error", X, X, regularizer=mlhf.L2(1.0))},
            ValueError,
            "give it to the sum",
        ),
    ],
)
def test_terms_that_make_no_sum_are_refused(given, error, words):
    with pytest.raises(error, match=words):
        mlhf.ObjectiveSum(given)


@pytest.mark.parametrize(
    ("weights", "words"),
    [({"edge": -1}, "edge"), ({"corner": 1}, "corner"), ({"edge": tf.ones(2)}, "scalar")],
)
def test_weights_that_make_no_sense_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        total(weights)


@pytest.mark.slow
def test_meta_training_rolls_a_task_of_several_terms_out():
    def batches(first):
        del first
        while True:
            yield (
                {"inside": X.astype("f"), "edge": EDGE.astype("f")},
                {"inside": Y.astype("f"), "edge": np.ones((3, 1), "f")},
            )

    task = mlhf.Task(
        {"inside": inside, "edge": inside},
        {"inside": "squared_error", "edge": "squared_error"},
        lambda seed: point(tf.float32),
        batches,
        kinds={"coefficient": "dense_bias"},
        term_weights={"edge": 2.0},
    )
    assert "inside" in repr(task)
    optimizer, parameters = mlhf.MetaHessianFree(0.1), point(tf.float32)
    state = optimizer.init_for(task, parameters)
    metrics = optimizer.step(task.objective(*next(batches(0))), parameters, state).metrics
    assert metrics["loss"] == metrics["loss_inside"] + 2 * metrics["loss_edge"]
    result = mlhf.meta_train(
        task, mlhf.MetaHessianFree(0.1), 2, roll_back=2, meta_lr=1e-3, progress=False
    )
    assert result.skipped == 0


def test_a_task_with_other_losses_than_networks_is_refused():
    with pytest.raises(ValueError, match="same names"):
        mlhf.Task({"a": inside}, {"b": "squared_error"}, lambda seed: point(), lambda k: [])
