"""Problems of a user's own: any data in memory, any loss, any network."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import custom_op
import mlhf
from mlhf.checks.arguments import check_number
from mlhf.models import keras_models, natural_outputs
from train_val.data.order import shuffled_indices
from train_val.problems.problem import TEST_BATCH, Problem


class Score(NamedTuple):
    """What a task is measured by on its test examples."""

    name: str  # as in "squared error"
    mean: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # of outputs and targets, over the examples


@dataclasses.dataclass(frozen=True)
class ArrayTask:
    """What a function registered by `train_val.task_families.task` returns.

    Attributes:
      train: The examples to train on, (inputs, targets): inputs are an array or a structure of
        arrays with examples along the first axis. Floating inputs become float32.
      test: The examples to test on, in the same form.
      loss: The loss, as for `mlhf.Objective`.
      build: A function from a seed to a built Keras model, whose initial weights depend on the seed
        alone; None for a network that is a function.
      network: The network, a function (parameters, inputs) -> outputs, if there is no model.
      initialize: A function from a seed to its initial parameters, a structure of tensors.
      score: What is measured on the test examples; None for the accuracy of classes, or the loss.

    Raises:
      ValueError: If the network is given in both ways or in neither, or arrays do not fit together.
    """

    train: tuple[Any, Any]
    test: tuple[Any, Any]
    loss: Any
    build: Callable[[int], keras.Model] | None = None
    network: Callable[[Any, Any], Any] | None = None
    initialize: Callable[[int], Any] | None = None
    score: Score | None = None

    def __post_init__(self) -> None:
        by_function = self.network is not None and self.initialize is not None
        if (self.build is None) != by_function:
            raise ValueError(
                "Expected build=, a function that returns a Keras model, or network= with "
                "initialize=, got both or neither."
            )


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples in memory.

    Attributes:
      inputs: A structure of arrays, the first axis counting examples.
      targets: The targets, an array.
    """

    inputs: Any
    targets: np.ndarray

    @classmethod
    def of(cls, pair: tuple[Any, Any], what: str) -> Examples:
        """Returns examples from (inputs, targets).

        Args:
          pair: Inputs and targets.
          what: What they are for, in errors.

        Raises:
          ValueError: If they are not such a pair, or differ in their number.
        """
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise ValueError(f"Expected {what}= to be (inputs, targets), got {type(pair)}.")
        inputs, targets = tf.nest.map_structure(_as_array, pair[0]), _as_array(pair[1])
        counts = {len(array) for array in [*tf.nest.flatten(inputs), targets]}
        if len(counts) != 1 or not min(counts):
            raise ValueError(
                f"Expected inputs and targets of {what}= with one number of examples, at least 1, "
                f"along their first axes, got {sorted(counts)}."
            )
        return cls(inputs, targets)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.targets)

    def taken(self, places: Any) -> tuple[Any, tf.Tensor]:
        """Returns the inputs and targets at some places, as tensors."""
        inputs = tf.nest.map_structure(lambda part: tf.gather(part, places), self.inputs)
        return inputs, tf.gather(self.targets, places)

    def digest(self) -> str:
        """Returns a text that identifies the data."""
        found = hashlib.sha256()
        for array in [*tf.nest.flatten(self.inputs), self.targets]:
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]


def _as_array(part: Any) -> np.ndarray:
    array = np.asarray(part)
    return array.astype(np.float32) if array.dtype == np.float64 else array


@dataclasses.dataclass(frozen=True)
class ArrayProblem(Problem):
    """A network with the examples that it is trained and tested on, in memory.

    Where the loss is a softmax cross entropy, `accuracy` is the share of the labels that are hit,
    of all places of a text or an image; for other losses it is the mean loss on the test examples,
    or the task's own score, which `measured` says.

    Attributes:
      score: The task's own score, if it has one.
    """

    model: Any
    train: Any
    test: Any
    score: Score | None = None

    @property
    def measured(self) -> str:
        """What `accuracy` returns: `"test accuracy"`, `"test loss"` or the score's name."""
        if self.score is not None:
            return f"test {self.score.name}"
        classifies = isinstance(self._loss, custom_op.losses.SoftmaxCrossEntropy)
        return "test accuracy" if classifies else "test loss"

    def accuracy(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the test accuracy, the test loss where there are no classes, or the score.

        Args:
          parameters: The parameters, in the structure of the task's.
          model_state: A state as `mlhf.get_model_state` returns it; None for the model's own.
        """
        if self.score is not None:
            return self._mean(parameters, model_state, self.test, self.score.mean)
        score = self._hits if self.measured == "test accuracy" else self._losses
        return self._mean(parameters, model_state, self.test, score)

    def training_loss(self, parameters: Any, model_state: Any = None) -> float:
        """Returns the mean loss over the training examples, with the regularizer.

        Args:
          parameters: The parameters, in the structure of the task's.
          model_state: A state, as for `accuracy`.
        """
        loss = self._mean(parameters, model_state, self.train, self._losses)
        if self.task.regularizer is not None:
            loss += float(self.task.regularizer.value(parameters))
        return loss

    @property
    def normalised(self) -> bool:
        """Whether the network has moving statistics, which `population_state` replaces."""
        return self.model is not None and super().normalised

    @property
    def image_fingerprint(self) -> str:
        """A digest that identifies the data."""
        return f"{self.train.digest()} {self.test.digest()}"

    def _mean(self, parameters: Any, model_state: Any, data: Any, score: Any) -> float:
        total, seen = 0.0, 0
        for inputs, targets in self._test_batches(data):
            outputs = self._outputs(parameters, model_state or (), inputs)
            total += len(targets) * float(score(outputs, targets))
            seen += len(targets)
        return total / seen

    def _losses(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        return self._loss.value(outputs, targets)

    def _hits(self, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        if targets.shape.rank == outputs.shape.rank and targets.dtype.is_floating:
            targets = tf.argmax(targets, -1)  # probabilities
        targets = tf.cast(targets, tf.int64)
        hits = tf.cast(tf.argmax(outputs, -1) == targets, tf.float32)
        ignored = getattr(self._loss, "ignore_index", None)
        counted = tf.ones_like(hits) if ignored is None else tf.cast(targets != ignored, hits.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(hits * counted), tf.reduce_sum(counted))

    @functools.cached_property
    def _loss(self) -> Any:
        return natural_outputs.resolve(self.task.loss)[0]

    @functools.cached_property
    def _outputs(self) -> Callable[..., tf.Tensor]:
        """A compiled call of the network in inference mode."""

        def outputs(parameters: Any, model_state: Any, inputs: Any) -> tf.Tensor:
            if self.model is None:
                return self.task.network(parameters, inputs)
            state = model_state or mlhf.get_model_state(self.model) or {}
            names = sorted(state)
            values, states = self._values(parameters), [state[name] for name in names]
            return keras_models.outputs_of(self.model, values, states, inputs, self._loss)

        return tf.function(outputs, autograph=False, reduce_retracing=True)

    def _test_batches(self, data: Any) -> Iterable[Any]:
        sample = self.train_sample if data is self.train else self.test_sample
        count = min(sample or len(data), len(data))
        places = np.linspace(0, len(data) - 1, count).round().astype(int)
        return [data.taken(part) for part in np.split(places, range(TEST_BATCH, count, TEST_BATCH))]


def of_arrays(
    own: ArrayTask,
    name: str,
    *,
    title: str | None = None,
    batch_size: int = 128,
    seed: int = 0,
    weight_decay: float = 0.0,
) -> ArrayProblem:
    """Returns the problem of a user's own task.

    Args:
      own: The task.
      name: The name of the problem.
      title: The beginning of the task's name; None for `name`.
      batch_size: The batch size in training, at most the number of examples.
      seed: The seed of the batches.
      weight_decay: The factor c in c/2 · Σ‖w‖².

    Returns:
      The problem.

    Raises:
      ValueError: If an argument makes no sense.
    """
    check_number("weight_decay", weight_decay, at_least=0)
    train, test = Examples.of(own.train, "train"), Examples.of(own.test, "test")
    if not 1 <= batch_size <= len(train):
        raise ValueError(
            f"Expected batch_size from 1 to the {len(train)} training examples, got {batch_size}."
        )
    network: Any = own.network
    initialize: Any = own.initialize
    if own.build is not None:
        network, initialize = _model(own.build)
    task = mlhf.Task(
        network,
        own.loss,
        initialize,
        lambda start: _batches(train, batch_size, seed, start),
        regularizer=mlhf.L2(weight_decay) if weight_decay else None,
        name=f"{title or name}, batches of {batch_size}"
        + (f", weight decay {weight_decay}" if weight_decay else ""),
    )
    model = None if own.build is None else network
    return ArrayProblem(name, model, train, test, task, batch_size=batch_size, score=own.score)


def _model(build: Callable[[int], keras.Model]) -> tuple[keras.Model, Callable[[int], Any]]:
    model = build(0)

    def initialize(seed: int) -> dict[str, tf.Tensor]:
        # Layers without an explicit name get another one in each new network.
        parameters = mlhf.get_parameters(other := build(seed))
        pairs = zip(model.trainable_variables, other.trainable_variables, strict=True)
        return {variable.path: parameters[its.path] for variable, its in pairs}

    return model, initialize


def _batches(data: Examples, size: int, seed: int, start: int) -> Iterator[tuple[Any, tf.Tensor]]:
    """Yields the endless batches from number `start` on, each a function of the seed and it."""
    while True:
        yield data.taken(shuffled_indices(len(data), size, seed, start))
        start += 1
