"""The hyperparameters of a network's training by name, and the problem that learns them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import custom_op
from mlhf import hypergrad
from mlhf.checks.arguments import check_choice
from mlhf.models import keras_models
from train_val.data import ImageData, test_batches
from train_val.data.order import shuffled_indices
from train_val.networks import network_table
from train_val.problems import image_problems

DATA = ("cifar10", "digits", "mnist")

# The initial values, unless the user sets them.
PENALTIES = {"l1": 1e-4, "l2": 1e-4, "log_l2": float(np.log(1e-4))}
OF_DATA = ("example_weights", "images", "labels")
OF_WEIGHTS = ("initial_scale", "initial_weights")
GRANULARITIES = ("", "step", "layer", "step+layer", "weight")

PROJECTIONS: dict[str, Callable[..., hypergrad.projections.Projection]] = {
    "box": hypergrad.projections.box,
    "capped_simplex": hypergrad.projections.capped_simplex,
    "none": lambda: lambda value: value,
    "simplex": hypergrad.projections.simplex,
}


def make_dynamics(name: str, lr: float | None, momentum: float) -> hypergrad.Dynamics:
    """Returns the dynamics with a name on the command line.

    Args:
      name: `"gd"`, `"backtracking"`, `"momentum"` (M2), `"m1"` to `"m4"`, `"nesterov"` (of M2) or
        `"adam"`.
      lr: The learning rate; None for 0.1, or 0.001 for `"adam"`.
      momentum: The momentum, if the dynamics has one; for Adam β₁.

    Raises:
      ValueError: If the name is not known, or a number is outside its domain.
    """
    check_choice("dynamics", name, DYNAMICS)
    if name == "adam":
        return hypergrad.Adam(1e-3 if lr is None else lr, momentum)
    lr = 0.1 if lr is None else lr
    if name in ("gd", "backtracking"):
        return hypergrad.GradientDescent(lr, backtracking=name == "backtracking")
    form = name.upper() if name in ("m1", "m2", "m3", "m4") else "M2"
    return hypergrad.Momentum(lr, momentum, form, nesterov=name == "nesterov")


DYNAMICS = ("adam", "backtracking", "gd", "m1", "m2", "m3", "m4", "momentum", "nesterov")


@dataclasses.dataclass(frozen=True)
class Name:
    """A hyperparameter as the command line writes it, such as `learning_rate:step+layer`."""

    name: str
    granularity: str = ""

    @classmethod
    def parse(cls, text: str, dynamics: hypergrad.Dynamics) -> Name:
        """Reads a hyperparameter.

        Args:
          text: `NAME` or `NAME:GRANULARITY`.
          dynamics: The dynamics, whose hyperparameters are names too.

        Returns:
          The name and the granularity.

        Raises:
          ValueError: If there is no such hyperparameter, or it does not have this granularity.
        """
        name, _, granularity = text.partition(":")
        fine: dict[str, tuple[str, ...]] = {
            **dict.fromkeys(dynamics.constants, GRANULARITIES),
            **dict.fromkeys(PENALTIES, ("", "layer", "weight")),
            **dict.fromkeys(OF_DATA, ("",)),
            "initial_scale": ("", "layer"),
            "initial_weights": ("",),
        }
        if name not in fine:
            raise ValueError(
                f"Expected hyperparameters among {', '.join(fine)} (with the dynamics "
                f"{dynamics!r}), got {name!r}."
            )
        if granularity not in fine[name]:
            asked = " or ".join(f"{name}:{g}" if g else name for g in fine[name])
            raise ValueError(f"Expected {asked}, got {text!r}.")
        return cls(name, granularity)


class Tuning:
    """A network, its data, and the hyperparameters of its training.

    Attributes:
      problem: The `mlhf.hypergrad.Problem`: the inner loss is the mean cross entropy of batches,
        with penalties and weights of examples; the outer loss is that of the validation images.
      start: The initial values of the hyperparameters.
      network: The network with its test images.
      train: The training images.
      layers: The names of the groups of hyperparameters by layer.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        network: str = "mlp",
        data: str = "mnist",
        data_dir: str | None = None,
        dynamics: hypergrad.Dynamics,
        steps: int,
        batch_size: int = 128,
        train_examples: int = 10_000,
        valid_examples: int | None = None,
        start: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        """Loads the data and describes the training.

        Args:
          names: The hyperparameters to learn, as texts that `Name.parse` reads.
          network: `"convnet"`, `"mlp"` or `"softmax"`.
          data: `"cifar10"`, `"digits"` or `"mnist"`.
          data_dir: The folder of the files, as for `train_val.data.load`.
          dynamics: The dynamics of the training.
          steps: The number of steps, T.
          batch_size: Examples per batch; all of them if there are fewer.
          train_examples: The most images to train on, the first of the training part.
          valid_examples: The most images to validate on, others of that part and at most a third
            of it; None for 5,000, or 1,000 with the convnet.
          start: Initial values of hyperparameters that begin with one number.
          seed: The seed of `initial_weights`.

        Raises:
          ValueError: If a name or number makes no sense.
          DataError: If the data can't be read.
        """
        self.dynamics, self.names = dynamics, [Name.parse(text, dynamics) for text in names]
        learned = [name.name for name in self.names]
        if not learned or len(set(learned)) < len(learned):
            raise ValueError(f"Expected hyperparameters, each once, got {', '.join(names)!r}.")
        if {*OF_WEIGHTS} <= set(learned):
            raise ValueError("Expected initial_scale or initial_weights, got both.")
        check_choice("problem", network, list(network_table.TUNED))
        check_choice("data", data, DATA)
        known = network_table.find(network)
        self.network = image_problems.of_network(
            network_table.load(known.paper),
            network,
            data,
            data_dir=data_dir,
            data_format="channels_last",
        )
        self.steps, self._seed, self._values = steps, seed, dict(start or {})
        unknown = set(self._values) - {*dynamics.constants, *PENALTIES, "initial_scale"}
        if unknown or not set(self._values) <= set(learned):
            raise ValueError(
                "Expected first values of learned hyperparameters of one number, got one of "
                f"{sorted(unknown or set(self._values) - set(learned))}."
            )
        self.train, valid = self._part(
            self.network.train, train_examples, valid_examples or known.valid_examples or 0
        )
        self._inputs, self._labels = _tensors(self.train)
        self._valid = _tensors(valid)
        self._batch_size = min(batch_size, len(self.train))
        model = self.network.model
        self._paths = [variable.path for variable in model.trainable_variables]
        self._state = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]
        self.layers = sorted(self._paths)
        self.start = {name.name: self._first(name) for name in self.names}
        self.problem = hypergrad.Problem(
            self._train_loss,
            self._valid_loss,
            dynamics=dynamics,
            steps=steps,
            initial=self._scaled_weights if "initial_scale" in learned else None,
        )

    @property
    def weights(self) -> Callable[[int], Any]:
        """A function from a seed to the initial weights, unless a hyperparameter sets them."""
        return self.network.task.initialize

    def gauss_newton(self, damping: float = 1e-2) -> hypergrad.linear_solvers.GaussNewton:
        """Returns the solver for `implicit` that does not need a minimum.

        Args:
          damping: The number added to the diagonal of the Gauss-Newton matrix.

        Raises:
          ValueError: If weights of examples are learned, which the matrix does not contain.
        """
        if "example_weights" in self.start:
            raise ValueError(
                "Expected solver=gauss_newton without example_weights, whose part of the matrix it "
                "does not know; take solver=cg, or method=reverse."
            )
        return hypergrad.linear_solvers.GaussNewton(
            self._outputs, damping=damping, regularizer=self._penalty
        )

    def projections(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns projections by name: the given ones, and natural ones for the others."""
        natural = {
            "l1": hypergrad.projections.box(0.0),
            "l2": hypergrad.projections.box(0.0),
            "example_weights": hypergrad.projections.box(0.0, 1.0),
            "labels": hypergrad.projections.simplex(),
            "initial_scale": hypergrad.projections.box(1e-6),
        }
        used = {name: project for name, project in natural.items() if name in self.start}
        return {**used, **(given or {})}

    def rate(self, name: str) -> float:
        """Returns an outer learning rate that suits Adam, whose steps have the rate's size."""
        if name in ("learning_rate", "l1", "l2"):
            value = np.mean([np.mean(leaf) for leaf in tf.nest.flatten(self.start[name])])
            return max(0.1 * float(value), 1e-6)
        return {"log_l2": 0.2, "initial_scale": 0.1, "images": 0.05}.get(name, 0.01)

    def by_weight(self) -> list[str]:
        """Returns the names of the hyperparameters with a value for every weight."""
        return [name.name for name in self.names if name.granularity == "weight"]

    def numbers(self) -> int:
        """Returns how many numbers the hyperparameters consist of."""
        return sum(int(np.prod(leaf.shape)) for leaf in tf.nest.flatten(self.start))

    def _part(self, data: Any, train: int, valid: int) -> tuple[ImageData, ImageData]:
        valid = min(valid, max(1, len(data) // 3))
        train = min(train, len(data) - valid)

        def cut(begin: int, end: int) -> ImageData:
            return dataclasses.replace(
                data, images=data.images[begin:end], labels=data.labels[begin:end]
            )

        return cut(0, train), cut(train, train + valid)

    def _first(self, name: Name) -> Any:
        if name.name == "example_weights":
            return tf.ones([len(self.train)])
        if name.name == "images":
            return self._inputs
        if name.name == "labels":
            return tf.one_hot(self._labels, self.train.num_classes)
        if name.name == "initial_weights":
            return self.network.task.initialize(self._seed)
        constants = {**PENALTIES, **self.dynamics.constants, "initial_scale": 1.0}
        value = self._values.get(name.name, constants[name.name])
        if name.granularity == "weight":
            return tf.nest.map_structure(
                lambda leaf: tf.fill(leaf.shape, tf.constant(value, leaf.dtype)),
                self.network.task.initialize(self._seed),
            )
        steps, layers = self.steps, len(self.layers)
        shape = {"": [], "step": [steps, 1], "layer": [1, layers], "step+layer": [steps, layers]}
        return tf.fill(shape[name.granularity], tf.constant(value, tf.float32))

    def _train_loss(self, weights: Any, hyper: Any, step: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        logits, targets = self._outputs(weights, hyper, step, seed)
        if targets.dtype.is_integer:
            targets = tf.one_hot(targets, self.train.num_classes, dtype=logits.dtype)
        losses = hypergrad.softmax_cross_entropy(targets, logits)
        if "example_weights" in hyper:
            losses *= self._batch(hyper["example_weights"], step, seed)
        return tf.reduce_mean(losses) + self._penalty(weights, hyper)

    def _valid_loss(self, weights: Any, hyper: Any) -> tf.Tensor:
        del hyper
        inputs, labels = self._valid
        targets = tf.one_hot(labels, self.train.num_classes)
        return tf.reduce_mean(
            hypergrad.softmax_cross_entropy(targets, self._logits(weights, inputs))
        )

    def _outputs(
        self, weights: Any, hyper: Any, step: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = self._batch(hyper.get("images", self._inputs), step, seed)
        return self._logits(weights, inputs), self._batch(
            hyper.get("labels", self._labels), step, seed
        )

    def _logits(self, weights: Any, inputs: tf.Tensor) -> tf.Tensor:
        leaves = [weights[path] for path in self._paths]
        loss = custom_op.losses.get("softmax_cross_entropy")
        return keras_models.outputs_of(self.network.model, leaves, self._state, inputs, loss)

    def _batch(self, rows: tf.Tensor, step: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if self._batch_size == len(self.train):
            return rows
        chosen = shuffled_indices(
            len(self.train), self._batch_size, tf.cast(seed, tf.int64), tf.cast(step, tf.int64)
        )
        return tf.gather(rows, chosen)

    def _penalty(self, weights: Any, hyper: Any) -> tf.Tensor:
        total = tf.zeros([])
        for name, cost in (
            ("l1", tf.abs),
            ("l2", tf.square),
            ("log_l2", tf.square),
        ):
            if name not in hyper:
                continue
            for i, path in enumerate(self.layers):
                value = hyper[name]
                if isinstance(value, Mapping):
                    value = value[path]
                elif value.shape.rank:
                    value = value[0, i]
                factor = tf.exp(value) if name.startswith("log_") else value
                total += tf.reduce_sum(factor * cost(weights[path]))
        return total

    def _scaled_weights(self, hyper: Any, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        scale = hyper["initial_scale"]
        return {
            path: mean
            + (scale[0, i] if scale.shape.rank else scale)
            * deviation
            * tf.random.stateless_normal(shape, tf.stack([seed, i]))
            for i, (path, (shape, mean, deviation)) in enumerate(sorted(self._moments.items()))
        }

    @functools.cached_property
    def _moments(self) -> dict[str, tuple[tf.TensorShape, float, float]]:
        """Shape, mean and deviation of the network's own initial weights, by variable."""
        weights = self.network.task.initialize(self._seed)
        return {
            path: (leaf.shape, float(np.mean(leaf)), float(np.std(leaf)))
            for path, leaf in weights.items()
        }


def _tensors(data: ImageData) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns all images, as the network sees them, and their labels."""
    batches = list(test_batches(data, min(1000, len(data))))
    return tuple(tf.concat(parts, 0) for parts in zip(*batches, strict=True))
