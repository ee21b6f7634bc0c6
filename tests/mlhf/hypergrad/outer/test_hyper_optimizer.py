"""The outer loop and its projections."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlhf import hypergrad as hg
from mlhf.hypergrad import projections
from mlhf.hypergrad.outer.outer_optimizers import outer_optimizers
from mlhf.hypergrad.outer.records import read_records
from mlhf.runs.checkpoints import CheckpointError, Checkpoints

D = tf.float64
WEIGHTS = {"w": tf.constant([0.5, -1.0, 2.0], D)}


def train_loss(w, h, step, seed):
    noise = tf.random.stateless_normal([3], tf.stack([seed, step]), dtype=D)
    return tf.reduce_sum(h["l2"] * w["w"] ** 2) + tf.reduce_sum((w["w"] - 1 - 0.1 * noise) ** 2)


@pytest.fixture(scope="module")
def problem():
    return hg.Problem(
        train_loss,
        lambda w, h: tf.reduce_sum((w["w"] - 0.5) ** 2),
        dynamics=hg.Momentum(0.1, 0.5),
        steps=5,
    )


HYPER = {"l2": np.array([0.1, 0.2, 0.3]), "learning_rate": 0.1}


def test_it_descends_and_a_killed_run_continues_exactly(problem, tmp_path):
    def make(folder=None, **options):
        return hg.HyperOptimizer(
            problem,
            WEIGHTS,
            HYPER,
            outer_optimizer=keras.optimizers.Adam(0.05),
            folder=folder,
            **options,
        )

    whole = make(record_per_step=True)
    whole.run(6)
    losses = [float(record["valid_loss"]) for record in whole.records]
    assert losses[-1] < 0.5 * losses[0]
    assert whole.records[0]["per_step"]["learning_rate"].shape == (5,)

    first = make(tmp_path)
    first.run(4)
    # Two at once would write over each other.
    with pytest.raises(CheckpointError, match=r"nother run uses .*call close\(\)"):
        make(tmp_path)
    first.close()
    first.close()
    with pytest.raises(ValueError, match="one that was closed"):
        first.run(5)
    # What was done after the last checkpoint is done again.
    second = make(tmp_path)
    assert second.step == 4 and len(second.records) == 4
    second.run(6)
    for name in HYPER:
        np.testing.assert_array_equal(second.hyperparameters[name], whole.hyperparameters[name])
    second.close()
    records = read_records(tmp_path)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(
        records[5]["hypergradient"]["l2"], whole.records[5]["hypergradient"]["l2"]
    )
    other = {"l2": np.array([0.1, 0.2]), "learning_rate": 0.1}
    scalar = hg.Problem(
        lambda w, h, step: tf.reduce_sum(h["l2"]) * tf.reduce_sum(w["w"] ** 2),
        lambda w, h: tf.reduce_sum(w["w"]),
        dynamics=hg.Momentum(),
        steps=2,
    )
    with pytest.raises(CheckpointError, match=r"of another run \(.*hyperparameter l2.*steps"):
        hg.HyperOptimizer(scalar, WEIGHTS, other, folder=tmp_path)


def test_a_folder_is_continued_by_the_same_run_alone(problem, tmp_path):
    def make(problem=problem, hyper=HYPER, **options):
        options.setdefault("outer_optimizer", keras.optimizers.Adam(0.05))
        return hg.HyperOptimizer(problem, WEIGHTS, hyper, folder=tmp_path, **options)

    first = make()
    first.run(1)
    first.close()
    state = {name: outer.state() for name, outer in first._optimizers.items()}

    def changed(dynamics=problem.dynamics, steps=5):
        return hg.Problem(problem.train_loss, problem.outer_losses, dynamics=dynamics, steps=steps)

    for what, options in {
        "method": {"method": "forward"},
        "seed": {"seed": 1},
        "new_seeds": {"new_seeds": False},
        "steps": {"problem": changed(steps=6)},
        "dynamics": {"problem": changed(hg.Momentum(0.1, 0.5, nesterov=True))},
        "outer_optimizer of l2.*found.*learning_rate: 0.05": {
            "outer_optimizer": keras.optimizers.Adam(0.01)
        },
        "outer_optimizer of learning_rate": {"outer_optimizer": 0.05},
        "hyperparameter l2": {"hyper": {**HYPER, "l2": 0.1}},
    }.items():
        with pytest.raises(CheckpointError, match=f"step 1 .* of another run .*{what}"):
            make(**options)
    # What was made before checkpoints had a signature continues, and so does the same once more.
    checkpoints = Checkpoints(tmp_path)
    step, content = checkpoints.read()
    del content["signature"]
    checkpoints.write(step, content)
    for options in ({"seed": 1}, {}):
        with make(**options) as again:
            assert again.step == 1
        for name, outer in again._optimizers.items():
            for found, saved in zip(outer.state(), state[name], strict=True):
                np.testing.assert_array_equal(found, saved)


def test_by_hand(problem):
    # Two steps of gradient descent with rates by name, signs of one, and natural bounds.
    optimizer = hg.HyperOptimizer(
        problem,
        lambda seed: WEIGHTS,
        HYPER,
        outer_optimizer={"l2": 0.1, "learning_rate": 10.0},
        process=lambda gradient: {**gradient, "l2": tf.sign(gradient["l2"])},
        new_seeds=False,
        seed=3,
    )
    gradient = hg.reverse(problem, WEIGHTS, HYPER, seed=3).hypergradient
    moved = optimizer.run(1)
    np.testing.assert_allclose(moved["l2"], HYPER["l2"] - 0.1 * np.sign(gradient["l2"]))
    expected = max(0.0, 0.1 - 10.0 * float(gradient["learning_rate"]))
    np.testing.assert_allclose(moved["learning_rate"], expected, rtol=1e-6)


def test_generators_stop_it_and_online_methods_move_on_the_way(problem):
    optimizer = hg.HyperOptimizer(problem, WEIGHTS, HYPER, outer_optimizer=1e-3)

    def until_bored():
        while len(optimizer.records) < 3:
            yield

    optimizer.run(until_bored())
    assert optimizer.step == 3
    online = hg.HyperOptimizer(
        problem, WEIGHTS, HYPER, method="rtho", outer_optimizer=1e-2, options={"every": 2}
    )
    online.run(1)
    assert len(online.result.info["moves"]) == 3
    window = hg.HyperOptimizer(
        problem,
        WEIGHTS,
        HYPER,
        method="truncated",
        outer_optimizer=1e-2,
        options={"window": 2, "online": True},
    )
    window.run(1)
    assert len(window.result.info["moves"]) == 3


def test_divergence_is_skipped_and_then_raised(problem):
    def unstable(problem, weights, hyper, seed):
        if seed in (1, 2):
            raise hg.DivergedError("chaos")
        return hg.reverse(problem, weights, hyper, seed=seed)

    optimizer = hg.HyperOptimizer(problem, WEIGHTS, HYPER, method=unstable, most_skips=2)
    optimizer.run(4)
    assert [bool(record["skipped"]) for record in optimizer.records] == [False, True, True, False]
    before = optimizer.records[1]["hyperparameters"]
    np.testing.assert_array_equal(before["l2"], optimizer.records[3]["hyperparameters"]["l2"])
    strict = hg.HyperOptimizer(problem, WEIGHTS, HYPER, method=unstable, most_skips=1)
    with pytest.raises(hg.DivergedError, match="chaos"):
        strict.run(4)
    growing = hg.HyperOptimizer(
        problem, WEIGHTS, HYPER, outer_optimizer=0.0, largest_norm_growth=1.0 - 1e-6
    )
    growing.run(itertools.repeat(None, 5))
    assert growing.step < 5


def test_a_run_that_never_counted_leaves_nothing_to_continue(problem, tmp_path):
    def make(bad, **options):
        def method(problem, weights, hyper, seed):
            if seed in bad:
                raise hg.DivergedError("chaos")
            return hg.reverse(problem, weights, hyper, seed=seed)

        return hg.HyperOptimizer(
            problem, WEIGHTS, options.pop("hyper", HYPER), method=method, folder=tmp_path, **options
        )

    with make(range(9), most_skips=3) as bad, pytest.raises(hg.DivergedError, match="chaos"):
        bad.run(9)
    assert not list(tmp_path.glob("checkpoint-*")) and len(read_records(tmp_path)) == 3
    # Another start in the same folder is one, and has no records of the other.
    other = make([0], hyper={**HYPER, "learning_rate": 0.05})
    assert other.step == 0 and float(other.hyperparameters["learning_rate"]) == 0.05
    other.run(2)
    other.close()
    records = read_records(tmp_path)
    assert [record["step"] for record in records] == [1, 2]
    assert [bool(record["skipped"]) for record in records] == [True, False]
    assert make([0]).step == 2


def test_what_follows_the_last_checkpoint_is_done_again(problem, tmp_path):
    def make():
        return hg.HyperOptimizer(problem, WEIGHTS, HYPER, folder=tmp_path, checkpoint_every=2)

    def cut_short():
        yield from range(3)
        raise KeyboardInterrupt

    with make() as first, pytest.raises(KeyboardInterrupt):
        first.run(cut_short())
    assert len(read_records(tmp_path)) == 3
    again = make()
    assert again.step == 2
    # It ends where the growth of the norm ends it, which the checkpoint remembers.
    assert again._smallest == min(
        np.sqrt(sum(np.sum(g**2) for g in record["hypergradient"].values()))
        for record in again.records
    )
    again.run(3)
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2, 3]


def test_unknown_names(problem):
    with pytest.raises(ValueError, match="method="):
        hg.HyperOptimizer(problem, WEIGHTS, HYPER, method="backprop")
    with pytest.raises(ValueError, match="outer optimizers for"):
        hg.HyperOptimizer(problem, WEIGHTS, HYPER, outer_optimizer={"l2": 0.1})
    with pytest.raises(TypeError, match="Keras optimizer or a rate"):
        hg.HyperOptimizer(problem, WEIGHTS, HYPER, outer_optimizer="adam")
    with pytest.raises(ValueError, match="projections for"):
        hg.HyperOptimizer(problem, WEIGHTS, HYPER, projections={"l1": projections.box()})


def test_projections_are_the_nearest_points():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=[50, 7]))
    sets = {
        "box": (projections.box(-0.5, 0.4), lambda y: np.clip(y, -0.5, 0.4)),
        "simplex": (projections.simplex(1.5), None),
        "capped": (projections.capped_simplex(2.0), None),
    }
    inside = {
        "box": lambda n: rng.uniform(-0.5, 0.4, size=[n, 7]),
        "simplex": lambda n: 1.5 * rng.dirichlet(np.full(7, 0.3), size=n),
        "capped": lambda n: rng.uniform(size=[n, 7]) ** 3 * 0.57,
    }
    for name, (project, exact) in sets.items():
        y = project(x).numpy()
        if exact is not None:
            np.testing.assert_array_equal(y, exact(x.numpy()))
        # <x - y, z - y> <= 0 for all z of a convex set is what makes y the nearest.
        for z in inside[name](200):
            assert (np.sum((x.numpy() - y) * (z - y), -1) <= 1e-12).all(), name
        np.testing.assert_allclose(project(tf.constant(y)), y, atol=1e-14)
    simplex, capped = projections.simplex(1.5)(x), projections.capped_simplex(2.0)(x)
    np.testing.assert_allclose(tf.reduce_sum(simplex, -1), 1.5, rtol=1e-14)
    assert (simplex.numpy() >= 0).all()
    sums = np.sum(capped, -1)
    assert (sums <= 2 + 1e-12).all() and (capped.numpy() >= 0).all() and (capped.numpy() <= 1).all()
    assert (sums < 1.9).any() and (np.abs(sums - 2) < 1e-12).any()
    vector = projections.capped_simplex(1.0)(tf.constant([3.0, 3.0, -1.0, 0.5]))
    np.testing.assert_allclose(vector, [0.5, 0.5, 0, 0])
    large = tf.constant([[1e9, 0.0, 1e9], [-1e9, 0.0, -3e38]], tf.float32)
    np.testing.assert_array_equal(projections.simplex()(large), [[0.5, 0, 0.5], [0, 1, 0]])
    assert np.isnan(projections.simplex()(tf.constant([np.nan, 1.0]))).any()
    for wrong in (projections.simplex, projections.capped_simplex):
        with pytest.raises(ValueError, match="Expected total to be a finite number above 0"):
            wrong(0.0)
    with pytest.raises(ValueError, match="low <= high"):
        projections.box(1.0, 0.0)


@pytest.mark.parametrize(
    "outer, sentence",
    [
        (-1.0, "Expected outer_optimizer to be a finite number at least 0, got -1.0"),
        (float("nan"), "Expected outer_optimizer to be .* got nan"),
        ({"rate": -1}, "Expected outer_optimizer to be .* got -1"),
        (keras.optimizers.Adam(-0.1), "learning_rate of outer_optimizer, Adam, .* got -0.1"),
        (keras.optimizers.Adam(beta_1=1.0), "beta_1 of outer_optimizer, Adam, .* below 1, got 1.0"),
    ],
)
def test_an_outer_optimizer_that_makes_no_sense_is_refused(outer, sentence):
    with pytest.raises(ValueError, match=sentence):
        outer_optimizers(outer, {"rate": tf.constant(0.1)})
