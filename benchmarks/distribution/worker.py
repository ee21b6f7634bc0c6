"""One process of several measures its steps: `python -m ....worker OUT OPTIMIZER`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import mlhf
from benchmarks.distribution.sockets import bytes_sent
from mlhf.distribute import DataParallel
from mlhf.optimizers.kfac.blocks import blocks_of

# The width of the network and the examples of the whole batch.
WIDTH, BATCH, CLASSES = 512, 64, 10
WARM, MEASURED = 3, 5


def make(name: str) -> Any:
    """Returns an optimizer by its name in the table."""
    if name == "hessian_free":
        return mlhf.HessianFree(1.0, 1.0, 4)
    if name == "martens":
        return mlhf.MartensHessianFree(10.0, 10)
    if name == "meta":
        return mlhf.MetaHessianFree(0.1, cg_iterations=4, damping=1.0)
    if name == "kfac":
        return mlhf.KFAC(damping=10.0, factor_share=1.0)
    import keras

    return mlhf.FirstOrder(keras.optimizers.Adam(1e-3))


def network(parameters: Any, x: tf.Tensor) -> tf.Tensor:
    """Returns the logits of a network with one hidden layer as wide as its inputs."""
    first, last = parameters["dense"], parameters["dense_1"]
    return tf.tanh(x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]


def start() -> Any:
    """Returns the initial weights."""
    random = np.random.default_rng(0)
    return {
        name: {
            "kernel": tf.constant(random.normal(size=(WIDTH, n)) / WIDTH**0.5, tf.float32),
            "bias": tf.zeros([n]),
        }
        for name, n in (("dense", WIDTH), ("dense_1", CLASSES))
    }


def products(name: str, metrics: dict[str, Any]) -> int:
    """Returns the number of products with the Gauss-Newton matrix that a step took."""
    if name in ("hessian_free", "martens", "meta"):
        # One more for the residual of the start.
        return int(metrics["cg_iterations"]) + 1
    # K-FAC's rate and momentum.
    return 2 if name == "kfac" else 0


def main(out: str, name: str) -> None:
    """Trains and writes what the steps sent and took."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    optimizer = DataParallel(strategy, make(name))
    parameters = start()
    state = optimizer.init(parameters)
    random = np.random.default_rng(1 + optimizer.process)
    share = BATCH // optimizer.processes
    rows: list[dict[str, float]] = []
    for step in range(WARM + MEASURED):
        images = tf.constant(random.normal(size=(share, WIDTH)), tf.float32)
        labels = tf.constant(random.integers(0, CLASSES, share), tf.int32)
        before, began = bytes_sent(), time.perf_counter()
        objective = mlhf.Objective(network, "softmax_cross_entropy", images, labels)
        taken = optimizer.step(objective, parameters, state)
        parameters, state = taken.parameters, taken.state
        float(taken.metrics["loss"])
        seconds = time.perf_counter() - began
        if step >= WARM:
            row = {"bytes": bytes_sent() - before, "seconds": seconds}
            rows.append({**row, "products": products(name, taken.metrics)})
    blocks = blocks_of(parameters)
    factors = sum(side * side for block in blocks for side in block.sides)
    size = sum(int(tf.size(leaf)) for leaf in tf.nest.flatten(parameters))
    about = {"optimizer": name, "workers": optimizer.processes, "parameters": size}
    about["factors"] = factors if name == "kfac" else 0
    Path(out).write_text(json.dumps({**about, "steps": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
