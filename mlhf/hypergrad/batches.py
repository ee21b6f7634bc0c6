"""Batches as pure functions of the step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf


class Minibatches:
    """Batches of arrays in shuffled epochs; a step always has the same batch.

    Passed as `batches=` of a `Problem`, they become part of the graph. Every seed that a method is
    called with has its own orders, so that a `HyperOptimizer` with new seeds does not fit its
    hyperparameters to one of them.

    Attributes:
      indices: The examples of each step when a method's seed is 0, int32 [T, B].
      steps: The number of steps, T.
    """

    def __init__(
        self, data: Any, batch_size: int, steps: int, *, shuffle: bool = True, seed: int = 0
    ):
        """Draws the examples of all steps.

        Args:
          data: A structure of arrays with a common first axis, N examples.
          batch_size: The number of examples in a batch, B, at most N.
          steps: The number of steps, T.
          shuffle: Whether every epoch has its own order; otherwise all have that of the data.
          seed: The seed of the orders, together with the seed that a method is called with.

        Raises:
          ValueError: If the arrays have different lengths or fewer than B examples, or T is not
            positive.
        """
        self._data = tf.nest.map_structure(tf.convert_to_tensor, data)
        lengths = {int(leaf.shape[0]) for leaf in tf.nest.flatten(self._data)}
        if len(lengths) != 1:
            raise ValueError(f"Expected arrays of one length, got {sorted(lengths)}.")
        (length,) = lengths
        if not 1 <= batch_size <= length:
            raise ValueError(f"Expected a batch_size from 1 to {length}, got {batch_size}.")
        if steps < 1:
            raise ValueError(f"Expected a positive number of steps, got {steps}.")
        rng = np.random.default_rng(seed)
        a_batch = np.arange(batch_size)
        per_epoch = length // batch_size
        epochs = -(-steps // per_epoch)
        orders = [rng.permutation(length) if shuffle else np.arange(length) for _ in range(epochs)]
        self.indices = np.stack(
            [
                orders[step // per_epoch][(step % per_epoch) * batch_size + a_batch]
                for step in range(steps)
            ]
        ).astype(np.int32)
        self.steps, self._per_epoch, self._last = steps, per_epoch, length - 1
        self._own_seed = int(rng.integers(2**30)) if shuffle else None

    def __call__(self, step: Any, seed: Any = 0) -> Any:
        """Returns the batch of a step.

        Args:
          step: An integer or an int32 scalar.
          seed: The seed that the method was called with, likewise; unused without `shuffle`.

        Returns:
          A structure like the data, of B examples.
        """
        with tf.init_scope():
            # Graphs refer to this tensor; a constant made in them would be copied several times.
            indices = tf.constant(self.indices)
        chosen = tf.gather(indices, step)
        if self._own_seed is not None and (tf.is_tensor(seed) or seed != 0):
            # Each seed and epoch has its own permutation of the examples. Only the places of the
            # batch's examples are computed.
            epoch = tf.cast(step, tf.int32) // self._per_epoch
            key = tf.stack([seed, self._own_seed + epoch])
            moved = tf.random.experimental.index_shuffle(chosen, key, self._last)
            chosen = tf.where(tf.equal(seed, 0), chosen, moved)
        return tf.nest.map_structure(lambda leaf: tf.gather(leaf, chosen), self._data)


class SupplierError(RuntimeError):
    """Raised when a supplier of batches raised an error, which is this one's cause."""


class Batches:
    """A user's supplier of batches, callable with tensors.

    Attributes:
      error: The error that the supplier raised last, for the caller to raise again.
      variables: The trainable variables that it read when it was first called.
    """

    def __init__(self, supplier: Callable[..., Any]):
        """Wraps a supplier.

        Args:
          supplier: The argument of `Problem(batches=...)`.
        """
        self._supplier = supplier
        self._in_graph = isinstance(supplier, Minibatches)
        self.variables: tuple[Any, ...] = ()
        self.error: BaseException | None = None
        self._like: Any = None
        if not self._in_graph:
            self._seeded = "seed" in inspect.signature(supplier).parameters

    def _supply(self, step: int, seed: int) -> Any:
        try:
            return self._supplier(step, seed=seed) if self._seeded else self._supplier(step)
        except StopIteration as error:
            raise ValueError(
                f"Expected batches({step}) to return the batch of that step, at any time and as "
                "often as it is asked, got a supplier that had come to its end (StopIteration). "
                "Index into a list or arrays, or use Minibatches."
            ) from error

    def _first(self) -> Any:
        """Returns the first batch, made eagerly like all later ones, and notes variables read."""

        def supply() -> Any:
            with tf.GradientTape() as tape:
                first = self._supply(0, 0)
            self.variables = tape.watched_variables()
            return first

        # A new thread is in no graph, and no outer tape stops its own tape.
        with futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(supply).result()

    def __call__(self, step: tf.Tensor, seed: tf.Tensor) -> Any:
        """Returns the batch of a step.

        Raises:
          ValueError: If the supplier returns nothing.
        """
        if self._in_graph:
            return self._supplier(step, seed)
        if self._like is None:
            # The supplier's own errors pass through as they are.
            first = self._first()
            if first is None or not tf.nest.flatten(first):
                raise ValueError(f"Expected batches(0) to return arrays, got {first!r}.")
            with tf.init_scope():
                self._like = tf.nest.map_structure(tf.convert_to_tensor, first)
        specs = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in tf.nest.flatten(self._like)]

        def supply(step: np.ndarray, seed: np.ndarray) -> list[np.ndarray]:
            try:
                batch = self._supply(int(step), int(seed))
                arrays = [np.asarray(leaf) for leaf in tf.nest.flatten(batch)]
                if len(arrays) != len(specs):
                    raise ValueError(
                        f"Expected batches({int(step)}) of the {len(specs)} arrays that step 0 "
                        f"has, got {len(arrays)}."
                    )
                for array, spec in zip(arrays, specs, strict=True):
                    if array.shape != tuple(spec.shape):
                        raise ValueError(
                            f"Expected batches({int(step)}) of the shape {spec.shape} that step 0 "
                            f"has, got {array.shape}; drop what does not fill a batch."
                        )
                return [
                    array.astype(spec.dtype.as_numpy_dtype)
                    for array, spec in zip(arrays, specs, strict=True)
                ]
            except Exception as error:
                self.error = error
                raise

        leaves = tf.numpy_function(supply, [step, seed], [spec.dtype for spec in specs])
        for leaf, spec in zip(leaves, specs, strict=True):
            leaf.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(self._like, leaves)
