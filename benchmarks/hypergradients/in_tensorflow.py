"""The methods of `mlhf.hypergrad` on the workload."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.hypergradients import workload as shared
from mlhf import hypergrad

VERSION = f"TensorFlow {tf.__version__}"
WINDOW = 100


def set_threads(threads: int) -> None:
    """Limits the threads that an operation uses."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


class Methods:
    """The methods on one workload, each a function of no arguments to a hypergradient.

    Attributes:
      problem: The training.
      weights: The first weights.
      hyper: The hyperparameters.
    """

    def __init__(self, workload: shared.Workload) -> None:
        """Makes the problem.

        Args:
          workload: The training.
        """
        inputs, labels = (tf.constant(array) for array in workload.data())
        self.weights = [tf.constant(leaf) for leaf in workload.weights()]
        chosen = slice(0, shared.EXAMPLES)
        batches = hypergrad.Minibatches(
            (inputs[chosen], labels[chosen]), shared.BATCH, workload.steps
        )
        batches.indices = workload.batches()
        self._valid = inputs[shared.EXAMPLES :], labels[shared.EXAMPLES :]
        self._owner = tf.constant(workload.penalty_of_input())
        self.problem = hypergrad.Problem(
            self._train_loss,
            lambda weights, hyper: _cross_entropy(weights, *self._valid),
            dynamics=hypergrad.Momentum(shared.LEARNING_RATE, shared.MOMENTUM, form="M2"),
            steps=workload.steps,
            batches=batches,
        )
        self.hyper: dict[str, Any] = {
            "learning_rate": np.asarray(shared.LEARNING_RATE, workload.dtype)
        }
        if workload.columns > 1:
            self.hyper["log_l2"] = workload.log_l2()

    def _train_loss(
        self,
        weights: list[tf.Tensor],
        hyper: dict[str, Any],
        step: tf.Tensor,
        batch: tuple[tf.Tensor, tf.Tensor],
    ) -> tf.Tensor:
        del step
        loss = _cross_entropy(weights, *batch)
        return loss + _penalty(weights, hyper, self._owner) if "log_l2" in hyper else loss

    def train(self) -> None:
        """Trains without differentiating."""
        hypergrad.train(self.problem, self.weights, self.hyper).weights[0].numpy()

    def estimate(self, method: str) -> Any:
        """Returns the estimated costs of a method."""
        options = {"window": WINDOW, "solver_iterations": 20}
        costs = hypergrad.estimate(self.problem, self.weights, self._hyper_of(method), **options)
        return costs.get({"reverse, stored": "reverse"}.get(method, method))

    def _hyper_of(self, method: str) -> dict[str, Any]:
        if method == "implicit":
            return {name: value for name, value in self.hyper.items() if name == "log_l2"}
        return self.hyper

    def methods(self) -> dict[str, Callable[[], list[float]]]:
        """Returns the methods by name."""
        solver = hypergrad.linear_solvers.GaussNewton(
            lambda weights, hyper, step, batch: (_network(weights, batch[0]), batch[1]),
            regularizer=lambda weights, hyper: _penalty(weights, hyper, self._owner),
            damping=0.1,
            max_iterations=20,
            tolerance=0.0,
        )
        options: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
            "reverse, stored": (hypergrad.reverse, {}),
            "reverse, checkpoints": (hypergrad.reverse, {"storage": "checkpoints"}),
            "reverse, disk": (hypergrad.reverse, {"storage": "disk"}),
            "reversible": (hypergrad.reversible, {}),
            "forward": (hypergrad.forward, {}),
            "truncated": (hypergrad.truncated, {"window": WINDOW}),
            "implicit": (hypergrad.implicit, {"solver": solver}),
        }

        def run(name: str) -> list[float]:
            method, more = options[name]
            if name in ("reverse, stored", "reverse, checkpoints", "reverse, disk", "reversible"):
                more = {**more, "per_step": False}
            found = method(self.problem, self.weights, self._hyper_of(name), **more).hypergradient
            missing = [float("nan")] if name == "implicit" else []
            return missing + [
                float(number)
                for name in ("learning_rate", "log_l2")
                if name in found
                for number in np.ravel(found[name])
            ]

        return {name: functools.partial(run, name) for name in options}


def _network(weights: list[tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        x = tf.tanh(x @ kernel + bias)
    return x @ weights[-2] + weights[-1]


def _cross_entropy(weights: list[tf.Tensor], x: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    logits = _network(weights, x)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def _penalty(weights: list[tf.Tensor], hyper: dict[str, Any], owner: tf.Tensor) -> tf.Tensor:
    if hyper["log_l2"].shape == [1]:
        return tf.exp(hyper["log_l2"][0]) * tf.reduce_sum(weights[0] ** 2)
    each = tf.gather(tf.exp(hyper["log_l2"]), owner)
    return tf.tensordot(each, tf.reduce_sum(weights[0] ** 2, 1), 1)
