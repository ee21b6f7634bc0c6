"""A whole training as one compiled function: steps of milliseconds are not worth a call each."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mlhf
from benchmarks.step_length.tasks import Task, batch_indices, held_aside
from mlhf.models import keras_models


class Training:
    """The training of a network of one architecture by one optimizer, from any weights."""

    def __init__(self, task: Task, network: keras.Model, data_dir: str, optimizer: Any) -> None:
        """Sets a training up.

        Args:
          task: The task.
          network: A network of the task.
          data_dir: The folder of the data sets.
          optimizer: The optimizer, whose numbers may be set between runs.
        """
        self.task, self.network, self.optimizer = task, network, optimizer
        self._data = [tf.constant(array) for array in task.data(data_dir)]
        self._aside = [tf.constant(array) for array in held_aside(task, data_dir)]
        self._compiled = tf.function(self._run)

    def run(
        self, start: keras.Model, seed: int, checks: int = 1, scale: float = 1.0
    ) -> list[float]:
        """Returns the losses on what was held aside, after equal parts of the training.

        Args:
          start: A network with the weights to start from.
          seed: The seed of the batches.
          checks: The number of parts.
          scale: A number that the weights to start from are multiplied by.
        """
        parameters = tf.nest.map_structure(lambda w: w * scale, mlhf.get_parameters(start))
        indices = batch_indices(self.task, len(self._data[1]), seed)
        ends = np.linspace(0, self.task.steps, checks + 1).round().astype(int)
        state, model_state = (
            self.optimizer.init(parameters),
            keras_models.get_model_state(start) or (),
        )
        losses = []
        for first, last in zip(ends[:-1], ends[1:], strict=True):
            parameters, state, model_state, loss = self._compiled(
                tf.constant(indices),
                int(first) + tf.constant(0),
                int(last) + tf.constant(0),
                parameters,
                state,
                model_state,
            )
            losses.append(float(loss))
        return losses

    @tf.autograph.experimental.do_not_convert
    def _run(
        self, indices: Any, first: Any, last: Any, parameters: Any, state: Any, model_state: Any
    ) -> tuple[Any, ...]:
        task = self.task

        def step(t: Any, parameters: Any, state: Any, model_state: Any) -> tuple[Any, ...]:
            x, y = (tf.gather(array, indices[t]) for array in self._data)
            objective = mlhf.Objective(self.network, task.loss, x, y, model_state)
            new = self.optimizer.step(objective, parameters, state)
            return t + 1, new.parameters, new.state, new.model_state or model_state

        _, parameters, state, model_state = tf.while_loop(
            lambda t, *_: t < last, step, (first, parameters, state, model_state)
        )
        aside = mlhf.Objective(self.network, task.loss, *self._aside)
        return parameters, state, model_state, aside.data_loss(parameters)
