"""Minimization: every method on a problem in closed form, every way to stop, what comes back."""

import keras
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

import mlhf
from mlhf.minimization import methods, quasi_newton
from mlhf.minimization.watch import NOT_FINITE, StopRules, Watch

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(12, 3)), RANDOM.normal(size=(12, 2))
START = {
    "dense": {"kernel": tf.zeros([3, 2], tf.float64), "bias": tf.constant([0.5, 0.0], tf.float64)}
}
SOLUTION = np.linalg.lstsq(np.concatenate([X, np.ones((12, 1))], 1), Y, rcond=None)[0]


def linear(parameters, x):
    return x @ parameters["dense"]["kernel"] + parameters["dense"]["bias"]


def objective(seed=None):
    x, y = X, Y
    if seed is not None:
        x = np.random.default_rng(seed).normal(size=(12, 3))
        y = x @ SOLUTION[:3] + SOLUTION[3]
    return mlhf.Objective(linear, "squared_error", x, y)


LOWEST = 0.5 * np.sum((X @ SOLUTION[:3] + SOLUTION[3] - Y) ** 2) / 12


def run(method="l-bfgs", steps=None, given=None, **arguments):
    arguments = {"progress": False, "steps": steps, **arguments}
    return mlhf.minimize(objective() if given is None else given, START, method, **arguments)


@pytest.mark.parametrize(
    ("method", "steps", "options"),
    [
        ("l-bfgs", 30, {"maxcor": 5}),
        ("bfgs", 30, {}),
        ("self-scaled BFGS", 30, {}),
        ("ssbroyden", 30, {}),
        ("Hessian-Free", 40, {"damping": 0.01, "cg_iterations": 10}),
        ("adam then l-bfgs", 40, {"adam": {"learning_rate": 0.1}}),
    ],
)
def test_methods_find_the_solution(method, steps, options):
    result = run(method, steps, options=options)
    found = result.parameters["dense"]
    np.testing.assert_allclose(found["kernel"], SOLUTION[:3], atol=1e-6)
    np.testing.assert_allclose(found["bias"], SOLUTION[3], atol=1e-6)
    np.testing.assert_allclose(result.loss, LOWEST, rtol=1e-10)
    assert result.success and result.steps <= steps
    lengths = {len(column) for column in result.history.values()}
    assert lengths == {result.steps} and {"loss", "gradient_norm", "seconds"} <= set(result.history)


def test_quasi_newton_steps_on_rosenbrock_reach_its_minimum():
    def residuals(parameters, x):
        a, b = parameters["kernel"][0], parameters["kernel"][1]
        return tf.stack([[1 - a, 10 * (b - a**2)]]) * x

    given = mlhf.Objective(residuals, "squared_error", np.ones((1, 2)), np.zeros((1, 2)))
    start = {"kernel": tf.constant([-1.2, 1.0], tf.float64)}
    for name in methods.QUASI_NEWTON:
        result = mlhf.minimize(given, start, name, steps=100, target=1e-20, progress=False)
        assert result.success, (name, result)
        np.testing.assert_allclose(result.parameters["kernel"], [1, 1], rtol=1e-8)
        # SciPy's BFGS takes 32.
        assert result.steps < 60


@pytest.mark.parametrize("name", ["bfgs", "self-scaled bfgs", "self-scaled broyden"])
def test_updates_keep_the_secant_equation_and_definiteness(name):
    for _ in range(5):
        root = RANDOM.normal(size=(6, 6))
        inverse = root @ root.T + 0.1 * np.eye(6)
        step = RANDOM.normal(size=6)
        change = 0.5 * step + 0.3 * RANDOM.normal(size=6)
        change += max(0, 0.1 - change @ step) * step
        curved = step @ np.linalg.solve(inverse, step)
        after = quasi_newton.updated(inverse, step, change, curved, name)
        np.testing.assert_allclose(after @ change, step, rtol=1e-9)
        np.testing.assert_allclose(after, after.T, atol=1e-10)
        assert np.linalg.eigvalsh(after)[0] > 0
        if name == "bfgs":
            rho = 1 / (change @ step)
            left = np.eye(6) - rho * np.outer(step, change)
            expected = left @ inverse @ left.T + rho * np.outer(step, step)
            np.testing.assert_allclose(after, expected, rtol=1e-8, atol=1e-10)


def test_l_bfgs_takes_scipys_steps():
    result = run("l-bfgs", 6)
    seen = []

    def value_and_gradient(w):
        w = w.reshape(4, 2)
        error = X @ w[1:] + w[0] - Y
        gradient = np.concatenate([error.sum(0)[None], X.T @ error]) / 12
        return 0.5 * np.sum(error**2) / 12, gradient.reshape(-1)

    scipy.optimize.minimize(
        value_and_gradient,
        np.r_[0.5, 0.0, np.zeros(6)],
        method="L-BFGS-B",
        jac=True,
        callback=lambda w: seen.append(value_and_gradient(w)[0]),
        options={"maxiter": 6, "maxcor": 50, "ftol": 0, "gtol": 0},
    )
    np.testing.assert_allclose(result.history["loss"], seen, rtol=1e-9)


@pytest.mark.parametrize(
    ("rules", "message", "success"),
    [
        ({"steps": 3}, "steps", True),
        ({"steps": 3, "tolerance": 1e-12}, "steps", False),
        ({"steps": 50, "tolerance": 1e-3}, "tolerance", True),
        ({"steps": 50, "target": 1.01 * LOWEST}, "target", True),
        ({"seconds": 1e-3}, "seconds", True),
        ({"steps": 50, "callback": lambda step, parameters, metrics: step == 2}, "callback", True),
        ({"seconds": 60}, "no further decrease", True),
    ],
)
def test_what_ends_it_is_said(rules, message, success):
    result = run(**rules)
    assert message in result.message and result.success == success
    if "callback" in rules:
        assert result.steps == 2


def test_ctrl_c_returns_what_there_is():
    def interrupt(step, parameters, metrics):
        assert set(metrics) == {"loss", "gradient_norm"}
        if step == 3:
            raise KeyboardInterrupt

    result = run("l-bfgs", 20, callback=interrupt)
    assert "interrupted" in result.message and not result.success
    assert result.steps == 3 and result.loss < float(objective().data_loss(START))


def test_the_best_point_is_returned_and_a_loss_that_is_not_finite_ends_it():
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(50.0))
    result = run(optimizer, 1000)
    assert "no longer finite" in result.message and not result.success
    np.testing.assert_allclose(result.loss, objective().data_loss(result.parameters), rtol=1e-12)
    assert result.loss == result.history["loss"][0]


@pytest.mark.parametrize("is_sample", [False, True])
def test_a_loss_that_is_not_finite_has_not_reached_a_target(is_sample):
    watch = Watch(StopRules(steps=5, target=0.0, tolerance=1.0), None, False)
    metrics = {"loss": -np.inf, "gradient_norm": 1.0}
    assert watch.note({}, {}, metrics, is_sample) and watch.status == NOT_FINITE


def test_new_batches_at_every_step():
    seen = []

    def of_step(step):
        seen.append(step)
        return objective(seed=step)

    result = run(mlhf.HessianFree(1.0, 0.0, 10), 6, of_step)
    assert seen == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(result.parameters["dense"]["kernel"], SOLUTION[:3], atol=1e-6)
    with pytest.raises(ValueError, match="one objective for all steps"):
        run("l-bfgs", 3, of_step)
    with pytest.raises(TypeError, match="for step 0"):
        run("adam", 3, lambda step: None)


def test_auto_takes_levenberg_and_marquardts_method_for_squares():
    seen = []

    def of_step(step):
        seen.append(step)
        return objective(seed=step)

    for given in (None, of_step, mlhf.ObjectiveSum({"a": objective(), "b": objective()})):
        result = run("auto", 12, given)
        assert result.method == "levenbergmarquardt" and result.steps <= 12
        np.testing.assert_allclose(result.parameters["dense"]["kernel"], SOLUTION[:3], atol=1e-6)
    # The choice asks for no objective besides those of the steps.
    assert seen == list(range(12))
    labels = np.arange(12) % 2
    classes = mlhf.Objective(objective().network, "softmax_cross_entropy", X, labels)
    assert run("auto", 2, classes).method == "martenshessianfree"
    assert run("adam then l-bfgs", 3).method == "adam then l-bfgs"


def test_sums_report_their_terms():
    both = mlhf.ObjectiveSum({"a": objective(), "b": objective(1)})
    for method in ("l-bfgs", "sgd"):
        history = run(method, 2, both).history
        total = history["loss_a"] + history["loss_b"]
        np.testing.assert_allclose(history["loss"], total, rtol=1e-6)


def test_a_keras_model_has_the_result_afterwards():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    given = mlhf.Objective(model, "squared_error", X.astype("f"), Y.astype("f"))
    moving = model.layers[0].moving_mean.numpy()
    result = mlhf.minimize(given, model, "adam", steps=5, progress=False)
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(variable, result.parameters[variable.path])
    assert np.abs(model.layers[0].moving_mean.numpy() - moving).max() > 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "steps= or seconds="),
        ({"method": "newton", "steps": 1}, ValueError, "among"),
        ({"method": 3, "steps": 1}, TypeError, "a name or an optimizer"),
        ({"method": mlhf.HessianFree, "steps": 1}, TypeError, "a name or an optimizer"),
        ({"steps": 0}, ValueError, "steps"),
        ({"steps": 1, "options": {"rate": 1}}, ValueError, "rate"),
        ({"method": "bfgs", "steps": 1, "options": {"maxcor": 1}}, ValueError, "maxcor"),
        ({"method": "hf", "steps": 1, "options": {"rate": 1}}, ValueError, "rate"),
        ({"method": "adam then bfgs", "steps": 1, "options": {"hf": {}}}, ValueError, "by method"),
        ({"given": 3, "steps": 1}, TypeError, "a function"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        run(**arguments)


def test_every_optimizer_of_the_package_has_a_name():
    known = methods.names()
    for name in ("hessianfree", "martenshessianfree", "kfac", "metahessianfree", "adam", "muon"):
        assert name in known
    assert "firstorder" not in known and "lossscaleoptimizer" not in known
