"""Runs of three kinds that are over at once: the steps do no more than change what is saved."""

import numpy as np
import tensorflow as tf

import mlhf
from mlhf import hypergrad
from mlhf.hypergrad.result import Result
from mlhf.meta_training import antithetic_pairs, backpropagation
from mlhf.runs.checkpoints import Checkpoints
from tests.mlhf.meta_training.small_runs import Script, make_task

KINDS = ("evolution", "meta-training", "hyperparameters")
STEPS, SAVED = 4, 2


def rule():
    return mlhf.MetaHessianFree(0.5, cg_iterations=1, y_use="none", seed=4)


def advance(particles, carry, weights, rate, batches):
    """In the place of tracing and training: losses that depend on what is restored."""
    del particles, batches
    moved = carry.weights + 0.1 * rate * weights["d"].kernel1[0, 0, 0]
    return carry._replace(weights=moved), 1 + np.square(moved.numpy()[:2])


def bounded(particles, pair, losses):
    """In the place of the first loss, which a pair keeps, another number that is restored."""
    del particles
    pair.first_loss = 5.0 if np.isnan(pair.first_loss) else pair.first_loss
    return np.clip(losses, 0, pair.first_loss)


def hypergradient(problem, weights, hyper, *, seed):
    del problem, weights
    return Result({"x": hyper["x"] + 0.1 * seed}, tf.reduce_sum(hyper["x"]), None)


def make_problem():
    return hypergrad.Problem(
        lambda w, h, step: tf.reduce_sum(h["x"] * w["w"]),
        lambda w, h: tf.reduce_sum(w["w"]),
        dynamics=hypergrad.Momentum(),
        steps=1,
    )


def runs(monkeypatch, problem):
    """Returns, by kind, functions from a folder and a number of steps to what a run ends with."""
    monkeypatch.setattr(antithetic_pairs.Particles, "advance", advance)
    monkeypatch.setattr(antithetic_pairs.Particles, "bounded", bounded)
    script = Script(STEPS)
    monkeypatch.setattr(backpropagation, "meta_step", script.meta_step)
    common = {"roll_back": 2, "progress": False, "save_steps": 2}

    def evolution(folder, steps):
        settings = {"pairs": 1, "horizon": 4, "deviation": 0.1, **common}
        done = mlhf.evolve(make_task(), rule(), steps, model_dir=folder, **settings)
        return [*tf.nest.flatten(done.optimizer.weights), done.optimizer.learning_rate, done.steps]

    def meta(folder, steps):
        settings = {**common, "roll_back": 1, "keep_prob": 0.4}
        done = mlhf.meta_train(script.task(), rule(), steps, model_dir=folder, **settings)
        last = Checkpoints(folder).read()[1]
        # The state of its replay counts what is on the disk.
        return [*tf.nest.flatten(last["carry"]), str(last["decisions"]), done.steps]

    def hyperparameters(folder, steps):
        start = {"x": np.array([1.0, 2.0])}
        loop = hypergrad.HyperOptimizer(
            problem, {"w": tf.ones([2], tf.float64)}, start, method=hypergradient, folder=folder,
            outer_optimizer=tf.keras.optimizers.Adam(0.1), checkpoint_every=2,
        )  # fmt: skip
        found = loop.run(steps)
        loop.close()
        return [found["x"], loop.step]

    return dict(zip(KINDS, (evolution, meta, hyperparameters), strict=True))
