"""What every optimizer keeps to, and the file of a trained one."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlhf
from mlhf.meta_optimizer import weights_file
from replay import read_structure, write_structure
from tests import contract
from tests.contract import batch, objective, quadratic, start, train

# One table for all. The learning rates of the untrained meta-optimizers are such that their steps,
# gradients divided by about 0.7, get on.
OPTIMIZERS = {
    "hf": functools.partial(mlhf.HessianFree, 0.5, 0.1),
    "hf from the gradient": functools.partial(mlhf.HessianFree, 0.5, 0.1, x_use="d"),
    "hf from zero": functools.partial(mlhf.HessianFree, 0.5, 0.1, x_use="zero"),
    "hf LM": functools.partial(mlhf.HessianFree, 0.5, 0.1, damping_type="LM_heuristics"),
    "hf paper": functools.partial(mlhf.HessianFree, 0.5, 0.1, guards="paper"),
    "hf on a half": functools.partial(mlhf.HessianFree, 0.5, 0.1, curvature_share=0.5),
    "hf of Martens": functools.partial(mlhf.MartensHessianFree, 0.1),
    "hf of Martens on a half": functools.partial(
        mlhf.MartensHessianFree, 0.1, curvature_share=0.5, damping_type="regular"
    ),
    "LM": mlhf.LevenbergMarquardt,
    "LM by conjugate gradients": functools.partial(mlhf.LevenbergMarquardt, method="cg"),
    "K-FAC": functools.partial(mlhf.KFAC, damping=0.1),
    "K-FAC with a rate": functools.partial(mlhf.KFAC, 0.1, 0.1),
    "K-FAC LM": functools.partial(mlhf.KFAC, damping=0.1, damping_type="LM_heuristics"),
    "Muon with curvature": functools.partial(mlhf.CurvatureMuon, 25),
    "Muon with a controller": functools.partial(mlhf.MetaMuon, 25),
    "meta": functools.partial(mlhf.MetaHessianFree, 0.5),
    "meta from a rule": functools.partial(mlhf.MetaHessianFree, 0.5, x_use="rnn", cg_iterations=4),
    "meta from the gradient": functools.partial(mlhf.MetaHessianFree, 0.5, x_use="d"),
    "meta without damping": functools.partial(mlhf.MetaHessianFree, 0.5, d_use="none", damping=0.1),
    "meta LM": functools.partial(
        mlhf.MetaHessianFree, 0.5, damping=0.1, damping_type="LM_heuristics"
    ),
    "meta without rules": functools.partial(
        mlhf.MetaHessianFree, 0.5, y_use="none", d_use="none", damping=0.1
    ),
    "Muon": functools.partial(mlhf.Muon, 0.3),
    "SOAP": functools.partial(mlhf.SOAP, 0.1),
    "Prodigy": functools.partial(mlhf.Prodigy, initial_distance=1e-2),
    "schedule-free": functools.partial(mlhf.ScheduleFreeAdamW, 0.2),
    "AMUSE": functools.partial(mlhf.AMUSE, 0.5),
    "SGD": lambda: mlhf.FirstOrder(keras.optimizers.SGD(0.1)),
    "momentum": lambda: mlhf.FirstOrder(keras.optimizers.SGD(0.05, momentum=0.9)),
    "Adam": lambda: mlhf.FirstOrder(keras.optimizers.Adam(0.1)),
    "RMSprop": lambda: mlhf.FirstOrder(keras.optimizers.RMSprop(0.05)),
}
# One of each class, for what costs a compilation.
CLASSES = ["hf", "hf of Martens", "LM", "K-FAC", "Muon with curvature", "meta", "Adam"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, id=f"{name}-{dtype.name}")
        for names, dtype in ((OPTIMIZERS, tf.float32), (CLASSES, tf.float64))
        for name in names
    ],
)
def test_the_contract(name, dtype, tmp_path):
    contract.check(OPTIMIZERS[name], tmp_path, dtype, anew=dtype == tf.float64)


@pytest.mark.parametrize("name", CLASSES)
def test_inside_a_function_of_the_user(name, monkeypatch):
    warned = []
    monkeypatch.setattr(tf.get_logger(), "warning", lambda *text, **_: warned.append(text))
    optimizer = OPTIMIZERS[name]()
    parameters = start(tf.float64)
    state = optimizer.init(parameters)

    @tf.function
    def two_steps(parameters, state, x, y):
        for _ in tf.range(2):
            step = optimizer.step(
                mlhf.Objective(quadratic, "squared_error", x, y), parameters, state
            )
            parameters, state = step.parameters, step.state
        return parameters, state

    inside, _ = two_steps(parameters, state, *batch(tf.float64))
    outside, _, _ = train(optimizer, tf.float64, 2)
    for a, b in zip(tf.nest.flatten(inside), tf.nest.flatten(outside), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    # AutoGraph reads the code of a step too, and says what it can't transform.
    assert not [text for text in warned if "AutoGraph" in str(text)]


@pytest.mark.parametrize("name", CLASSES)
def test_trains_a_keras_model_in_a_loop(name):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(12, 4)).astype("f")
    y = np.argmax(x[:, :3], 1)
    optimizer = OPTIMIZERS[name]()
    state, losses = optimizer.init(model), []
    for _ in range(15):
        step = optimizer.step(
            mlhf.Objective(model, "softmax_cross_entropy", x, y), mlhf.get_parameters(model), state
        )
        mlhf.set_parameters(model, step.parameters)
        mlhf.set_model_state(model, step.model_state)
        state = step.state
        losses.append(float(step.metrics["loss"]))
    assert losses[-1] < 0.6 * losses[0]
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
        y, model(x, training=True)
    )
    assert float(expected) < losses[0]


BAD = [
    ("learning_rate", -1),
    ("learning_rate", 0),
    ("learning_rate", "fast"),
    ("learning_rate", float("nan")),
    ("cg_iterations", 0),
    ("cg_iterations", 2.0),
    ("cg_iterations", "4"),
    ("x_use", "y"),
    ("damping", -1e-3),
    ("damping", None),
    ("damping_type", "LM"),
    ("decay", 1),
    ("decay", 0),
    ("curvature_share", 0),
    ("curvature_share", 1.5),
]
META_BAD = [("y_use", "x"), ("d_use", True)]
HF_BAD = [("guards", "none"), ("cg_tolerance", -1), ("cg_tolerance", "small"), ("x_use", "rnn")]


@pytest.mark.parametrize(
    ("optimizer", "name", "value"),
    [(mlhf.MetaHessianFree, *case) for case in BAD + META_BAD]
    + [(mlhf.HessianFree, *case) for case in BAD + HF_BAD],
)
def test_refuses_bad_arguments_at_construction(optimizer, name, value):
    with pytest.raises(ValueError, match=f"^Expected {name} to be .*, got {value!r}"):
        optimizer(**{name: value})


def test_a_step_before_init_is_an_error():
    optimizer = mlhf.MetaHessianFree()
    with pytest.raises(ValueError, match=r"call init\(parameters\) before step"):
        optimizer.step(objective(tf.float32), start(tf.float32), None)
    with pytest.raises(ValueError, match=r"call init\(parameters\) first"):
        optimizer.save("nowhere")


# The file of a trained optimizer.


@pytest.fixture
def saved(tmp_path):
    optimizer = mlhf.MetaHessianFree(
        0.7, cg_iterations=3, x_use="rnn", d_use="none", damping=0.1, decay=0.5, seed=4
    )
    optimizer.init(start(tf.float64))
    return optimizer, optimizer.save(tmp_path / "trained")


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_saved_and_loaded_is_the_same_bit_for_bit(dtype, tmp_path):
    optimizer = mlhf.MetaHessianFree(0.7, x_use="rnn", damping=0.1, kinds={"dense/bias": "mine"})
    parameters = start(dtype)
    state = optimizer.init(parameters)
    path = optimizer.save(tmp_path / "deep" / "trained")
    assert path == tmp_path / "deep" / "trained.npz"
    loaded = mlhf.MetaHessianFree.from_pretrained(path, kinds={"dense/bias": "mine"})
    assert (loaded.settings, loaded.rule) == (optimizer.settings, optimizer.rule)
    assert loaded.kinds == optimizer.kinds == ["dense_kernel", "mine"]
    for role, weights in optimizer.weights.items():
        for a, b in zip(loaded.weights[role], weights, strict=True):
            assert a.dtype == b.dtype == dtype
            np.testing.assert_array_equal(a, b)
    first = optimizer.step(objective(dtype), parameters, state)
    second = loaded.step(objective(dtype), parameters, loaded.init(parameters))
    for a, b in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_array_equal(a, b)
    # A folder of a meta-training is a name for its file.
    optimizer.save(tmp_path / weights_file.FILE_IN_FOLDER)
    assert mlhf.MetaHessianFree.from_pretrained(tmp_path).settings == optimizer.settings
    # Saving is whole or not at all, and over an earlier file.
    assert loaded.save(path).read_bytes() == path.read_bytes()


def test_settings_may_be_overridden(saved):
    optimizer, path = saved
    loaded = mlhf.MetaHessianFree.from_pretrained(path, learning_rate=2.0, cg_iterations=1)
    assert loaded.settings == {**optimizer.settings, "learning_rate": 2.0, "cg_iterations": 1}
    loaded = mlhf.MetaHessianFree.from_pretrained(path, x_use="x")
    assert set(loaded.weights) == {"y"}
    with pytest.raises(ValueError, match="Expected overrides among .*got .*'momentum'"):
        mlhf.MetaHessianFree.from_pretrained(path, momentum=0.9)
    with pytest.raises(ValueError, match="learning_rate.*got 'fast'"):
        mlhf.MetaHessianFree.from_pretrained(path, learning_rate="fast")


def test_the_suffix_may_be_left_out_and_newer_files_are_told(saved):
    optimizer, path = saved
    assert mlhf.MetaHessianFree.from_pretrained(path.with_suffix("")).settings == optimizer.settings
    newer = {**optimizer.settings, "thrust": 1}
    weights_file.write(path, newer, optimizer.kinds, optimizer.weights)
    with pytest.raises(ValueError, match=r"has the settings \['thrust'\].*a newer one saved it"):
        mlhf.MetaHessianFree.from_pretrained(path)
    with pytest.raises(ValueError, match="Expected seed to be a whole number"):
        mlhf.MetaHessianFree(seed=-1)


def test_missing_role_or_kind(saved):
    _, path = saved
    with pytest.raises(ValueError, match=r"roles \['x', 'y'\], and \['d'\] are wanted"):
        mlhf.MetaHessianFree.from_pretrained(path, d_use="rnn")
    loaded = mlhf.MetaHessianFree.from_pretrained(path)
    with pytest.raises(ValueError, match=r"kinds \['conv_kernel'\].*\['dense_bias', 'dense_ker"):
        loaded.init({"conv": {"kernel": tf.zeros([1, 1, 1, 1])}})


def test_names_and_missing_files(tmp_path):
    for name in mlhf.pretrained_names():
        assert mlhf.MetaHessianFree.from_pretrained(name).weights
    assert {"convnet", "resnet"} <= set(mlhf.pretrained_names())
    assert set(mlhf.MetaHessianFree.from_pretrained("resnet").kinds) == set(mlhf.KINDS)
    for name in mlhf.pretrained_names():
        assert (weights_file.PRETRAINED / f"{name}.md").read_text().startswith(f"# `{name}`")
    for missing in (tmp_path / "none.npz", "no such name", tmp_path):
        with pytest.raises(
            FileNotFoundError, match="Expected a trained meta-optimizer.*found noth"
        ):
            mlhf.MetaHessianFree.from_pretrained(missing)


def test_damaged_and_wrong_files(saved, tmp_path):
    _, path = saved
    content = path.read_bytes()
    for damaged in (content[:-100], content[: len(content) // 2], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            mlhf.MetaHessianFree.from_pretrained(path)
    path.write_bytes(content)
    whole = read_structure(path)
    x = whole["weights"]["x"]
    wrong = [
        [1, 2],
        {"some": np.zeros(3)},
        {**whole, "about": np.frombuffer(b"no json", np.uint8)},
        {**whole, "about": np.frombuffer(b'{"kinds": ["a", "b"]}', np.uint8)},
        {**whole, "weights": {"x": {**x, "more": np.zeros(3)}}},
        {**whole, "weights": {"x": {key: x[key] for key in list(x)[1:]}}},
        {**whole, "weights": {"x": {**x, "bias1": x["bias1"][:1]}}},
        {**whole, "weights": {"x": {**x, "bias1": x["bias1"].astype(int)}}},
        {**whole, "weights": {"x": {**x, "bias1": x["bias1"] * np.nan}}},
    ]
    for structure in wrong:
        write_structure(path, structure)
        with pytest.raises(ValueError, match=f"{path} is not the file of a meta-optimizer"):
            mlhf.MetaHessianFree.from_pretrained(path)


def test_a_folder_that_can_not_be_written_to(saved, tmp_path):
    optimizer, _ = saved
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        optimizer.save(tmp_path / "file" / "trained")


def test_curvature_on_a_share_of_the_batch():
    """Conjugate gradients to the end against a dense solve: all of g, the first half's G."""
    x, y = batch(tf.float64)
    parameters = tf.nest.map_structure(lambda leaf: leaf + 0.1, start(tf.float64))
    optimizer = mlhf.HessianFree(1.0, 0.2, 40, curvature_share=0.5, x_use="zero")
    taken = optimizer.step(objective(tf.float64), parameters, optimizer.init(parameters))
    rows = np.concatenate([x, np.ones([16, 1])], 1)
    before = np.full([5, 2], 0.1)
    gradient = rows.T @ (rows @ before - y) / 16
    matrix = rows[:8].T @ rows[:8] / 8 + 0.2 * np.eye(5)
    after = before - np.linalg.solve(matrix, gradient)
    np.testing.assert_allclose(taken.parameters["dense"]["kernel"], after[:4], rtol=1e-8)
    np.testing.assert_allclose(taken.parameters["dense"]["bias"], after[4], rtol=1e-8)
    # A share that rounds to the whole batch is the whole batch, and one that rounds to nothing
    # is an example.
    whole = objective(tf.float64)
    assert whole.first_examples(0.99) is whole and whole.first_examples(1) is whole
    assert whole.first_examples(0.01).targets.shape[0] == 1


def test_a_file_that_is_older_than_a_setting_takes_its_default(saved):
    _, path = saved
    content = read_structure(path)
    about = json.loads(bytes(content["about"]).decode())
    del about["settings"]["curvature_share"]
    content["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    write_structure(path, content)
    assert mlhf.MetaHessianFree.from_pretrained(path).rule.curvature_share == 1
    loaded = mlhf.MetaHessianFree.from_pretrained(path, curvature_share=0.25)
    assert loaded.rule.curvature_share == 0.25


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: mlhf.HessianFree(0.5, 0.1, **options),
        lambda **options: mlhf.MetaHessianFree(0.5, cg_iterations=2, **options),
    ],
)
def test_products_in_bfloat16(make):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(16, 12)).astype(np.float32)
    targets = random.integers(3, size=16)
    parameters = {
        "dense/kernel": tf.constant(random.normal(size=(12, 3)), tf.float32),
        "dense/bias": tf.zeros([3]),
    }

    def network(w, x):
        return x @ w["dense/kernel"] + w["dense/bias"]

    objective = mlhf.Objective(network, "softmax_cross_entropy", inputs, targets)
    steps = {}
    for dtype in (None, "bfloat16"):
        optimizer = make(product_dtype=dtype)
        taken = optimizer.step(objective, parameters, optimizer.init(parameters))
        steps[dtype] = taken.parameters["dense/kernel"] - parameters["dense/kernel"]
    error = tf.norm(steps["bfloat16"] - steps[None]) / tf.norm(steps[None])
    # Eight bits, but not none of the products.
    assert 1e-5 < error < 2e-2
    with pytest.raises(ValueError, match="product_dtype"):
        make(product_dtype="float16")
