"""Checks that a change of the code has left every number unchanged.

    python -m benchmarks.same_numbers write before.npz     # before the change
    python -m benchmarks.same_numbers compare before.npz   # after it

Trains the digits' perceptron and the convnet for 20 steps with every optimizer, meta-trains for a
few steps by both ways, and takes hypergradients by every method; then compares all results bit by
bit with those in the file. On one machine TensorFlow reproduces all bits, so any difference comes
from the change.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mlhf
from mlhf import hypergrad
from mlhf.hypergrad.methods import METHODS
from train_val.networks import convnets
from train_val.problems import image_problems

STEPS = 20
FIRST_ORDER: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, 0.9),
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-3),
    "adamw": lambda: keras.optimizers.AdamW(1e-3, weight_decay=1e-3),
}


def optimizers() -> dict[str, Callable[[], Any]]:
    """Returns a function that makes each optimizer, by a name for it."""
    made: dict[str, Callable[[], Any]] = {
        "hessian_free": lambda: mlhf.HessianFree(damping=0.3),
        "hessian_free_share": lambda: mlhf.HessianFree(damping=0.3, curvature_share=0.25),
        "hessian_free_bfloat16": lambda: mlhf.HessianFree(damping=0.3, product_dtype="bfloat16"),
        "martens": lambda: mlhf.MartensHessianFree(),
        "kfac": lambda: mlhf.KFAC(),
        "kfac_fixed": lambda: mlhf.KFAC(damping=0.3, learning_rate=0.1, momentum=0.9),
    }
    made |= {
        f"meta_{name}": functools.partial(mlhf.MetaHessianFree.from_pretrained, name)
        for name in mlhf.pretrained_names()
    }
    return made | {
        name: functools.partial(mlhf.FirstOrder, build) for name, build in FIRST_ORDER.items()
    }


def trainings(task: mlhf.Task, name: str, steps: int) -> Iterator[tuple[str, np.ndarray]]:
    """Trains with every optimizer.

    Args:
      task: The task to train on.
      name: The prefix of the results' names.
      steps: The number of steps of each training.

    Yields:
      A name, and a vector of the losses and the final parameters.
    """
    for kind, make in optimizers().items():
        optimizer = make()
        parameters = task.initialize(0)
        kinds = (task.variable_kinds(),) if kind.startswith("meta") else ()
        state, losses = optimizer.init(parameters, *kinds), []
        batches = iter(task.batches(0))
        for _ in range(steps):
            taken = optimizer.step(task.objective(*next(batches)), parameters, state)
            parameters, state = taken.parameters, taken.state
            losses.append(np.asarray(taken.metrics["loss"], np.float64).reshape(-1))
        leaves = [np.asarray(leaf).reshape(-1) for leaf in tf.nest.flatten(parameters)]
        yield f"{name}/{kind}/losses", np.concatenate(losses)
        yield f"{name}/{kind}/parameters", np.concatenate(leaves)


def meta_trainings() -> Iterator[tuple[str, np.ndarray]]:
    """Meta-trains on the digits by backpropagation and by evolution strategies.

    Yields:
      A name, and the weights of the LSTMs in one vector.
    """
    task = image_problems.make("mlp", "digits", batch_size=64).task
    for name, train in {
        "backpropagation": lambda o: mlhf.meta_train(task, o, 6, roll_back=3, progress=False),
        "evolution": lambda o: mlhf.evolve(
            task, o, 2, roll_back=2, pairs=2, horizon=4, progress=False
        ),
    }.items():
        optimizer = mlhf.MetaHessianFree(cg_iterations=2)
        train(optimizer)
        leaves = [np.asarray(leaf).reshape(-1) for leaf in tf.nest.flatten(optimizer.weights)]
        yield f"meta_training/{name}", np.concatenate(leaves)


def hypergradients() -> Iterator[tuple[str, np.ndarray]]:
    """Takes hypergradients of a small regression by every method.

    Yields:
      A name, and the hypergradients in one vector.
    """
    random = np.random.default_rng(0)
    x, y = random.normal(size=[2, 12, 4]), random.normal(size=[2, 12])

    def train_loss(
        weights: dict[str, tf.Tensor], hyper: dict[str, tf.Tensor], step: tf.Tensor
    ) -> tf.Tensor:
        error = tf.linalg.matvec(x[0], weights["w"]) - y[0]
        return tf.reduce_mean(error**2) + tf.exp(hyper["l2"]) * tf.reduce_sum(weights["w"] ** 2)

    def valid_loss(weights: dict[str, tf.Tensor], hyper: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reduce_mean((tf.linalg.matvec(x[1], tf.tanh(weights["w"])) - y[1]) ** 2)

    weights = {"w": tf.constant(random.normal(size=4))}
    dynamics = {
        "gradient_descent": hypergrad.GradientDescent(0.05),
        "momentum": hypergrad.Momentum(0.05, 0.8),
        "adam": hypergrad.Adam(0.05),
    }
    hyper = {"l2": tf.constant(-1.0, tf.float64), "learning_rate": tf.constant(0.05, tf.float64)}
    for form, rule in dynamics.items():
        problem = hypergrad.Problem(train_loss, valid_loss, dynamics=rule, steps=15)
        for method in ("reverse", "forward", "truncated", "implicit", "reversible", "drmad"):
            options = {"window": 5} if method == "truncated" else {}
            try:
                result = METHODS[method](problem, weights, hyper, **options)
            except (TypeError, ValueError, hypergrad.DivergedError) as error:
                # A method must refuse with the same words after the change.
                yield f"hypergradients/{form}/{method}", np.frombuffer(str(error).encode(), "u1")
                continue
            found = [np.asarray(result.hypergradient[name]).reshape(-1) for name in sorted(hyper)]
            yield f"hypergradients/{form}/{method}", np.concatenate(found)


def everything() -> Iterator[tuple[str, np.ndarray]]:
    """Yields every result by its name."""
    yield from trainings(image_problems.make("mlp", "digits", batch_size=64).task, "digits", STEPS)
    yield from trainings(_convnet(), "convnet", STEPS)
    yield from meta_trainings()
    yield from hypergradients()


def _convnet() -> mlhf.Task:
    """Returns the paper's convnet on images of noise, whose labels are their brightest corner."""
    model = convnets.convnet((32, 32, 3), 10)

    def batches(first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            random = np.random.default_rng(first)
            images = random.normal(size=[16, 32, 32, 3]).astype("float32")
            yield images, np.argmax(images[:, :10, 0, 0], -1).astype("int32")
            first += 1

    return mlhf.Task(
        network=model,
        loss="softmax_cross_entropy",
        batches=batches,
        initialize=lambda seed: mlhf.get_parameters(convnets.convnet((32, 32, 3), 10, seed=seed)),
    )


def compare(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[str]:
    """Describes the differences.

    Args:
      before: The results before the change, by name.
      after: The results after the change.

    Returns:
      A line for each result that is not bit-identical.
    """
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            lines.append(f"{name}: only {'after' if name in after else 'before'} the change")
            continue
        old, new = before[name], after[name]
        if old.dtype != new.dtype or old.shape != new.shape or old.tobytes() != new.tobytes():
            off = "another shape or dtype"
            if old.shape == new.shape and old.dtype.kind == "f":
                scale = np.max(np.abs(old), initial=1e-30)
                off = f"off by {np.max(np.abs(new - old), initial=0) / scale:.1e} of the largest"
            lines.append(f"{name}: {off}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Reads the flags, computes the numbers, and writes or compares them.

    Args:
      arguments: The command line; by default that of the process.

    Returns:
      The exit status: 1 if a number differs.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same_numbers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["write", "compare"])
    parser.add_argument("file", help="the numbers from before the change, an .npz file")
    flags = parser.parse_args(arguments)
    after: dict[str, np.ndarray] = {}
    for name, values in everything():
        after[name] = values
        print(f"{name}: {values.size} numbers", flush=True)
    if flags.action == "write":
        np.savez(flags.file, **after)
        return 0
    with np.load(flags.file) as file:
        lines = compare({name: file[name] for name in file.files}, after)
    print("\n".join(lines) or f"All {len(after)} results are the same to the bit.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
