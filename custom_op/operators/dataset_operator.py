"""Curvature of a network and a loss on a whole data set, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from custom_op import losses
from custom_op.determinism import Fingerprint, check_data, check_function, check_order
from custom_op.losses import activations
from custom_op.operators.batch_operator import Batch, BatchOperator, evaluate
from custom_op.operators.operator import CurvatureOperator

Structure = Any

# This many different batch shapes get traces of their own. A static batch size makes products
# faster, but tracing costs seconds: further shapes share traces of an unknown size.
_STATIC_SHAPES = 3
# This many batches are read twice, to see whether passes begin alike.
_COMPARED = 2


def on_batch_or_data_set(
    build: Callable[..., BatchOperator],
    operator: type[BatchOperator],
    function: Callable[..., tf.Tensor],
    parameters: Structure,
    loss: str | losses.Loss,
    batch: Batch,
    data: Iterable[Any] | None,
    progress: bool,
    check_deterministic: bool = True,
) -> Any:
    """Returns a batch's operator, or a data set's if data is given.

    Args:
      build: The maker of a batch's operator from (function of the parameters, parameters, loss,
        batch, summed).
      operator: The class of a batch's operator.
      function: A function of the parameters, or with data of the parameters and a batch's inputs.
      parameters: A structure of floating tensors.
      loss: A loss or its name.
      batch: Targets, weights and mask.
      data: The data set, or None.
      progress: Whether each pass over the data shows a progress bar.
      check_deterministic: Whether to check that the function and the data do not change.

    Returns:
      The operator.

    Raises:
      ValueError: If there are both targets and data or neither, the outputs are probabilities under
        a loss from logits, or the data is a `tf.data.Dataset` without an end;
        also whenever `build` raises it.
      TypeError: If the data can be iterated over only once; also whenever `build` raises it.
    """
    loss = losses.get(loss)
    function = activations.checked(function, loss)
    if data is None:
        if batch.targets is None:
            raise ValueError(
                "Expected the targets of a batch, or data= for a data set, got neither."
            )
        return build(function, parameters, loss, batch, check_deterministic=check_deterministic)
    if any(part is not None for part in (batch.targets, batch.weights, batch.mask)):
        raise ValueError(
            "Expected either targets, weights and mask of one batch, or data=, got both; the "
            "batches of data are (inputs, targets[, weights[, mask]])."
        )
    return DatasetOperator(
        build, operator, function, parameters, loss, data, progress, check_deterministic
    )


class DatasetOperator(CurvatureOperator):
    """A curvature operator of the mean loss over a data set.

    Each product, `loss()` and `gradient()` run over the data once; the products with the columns
    of a matrix share one pass and its forward passes. Sums over batches are kept in float64 and
    divided by the number of examples at the end, so that the result does not depend on how the
    data is divided into batches, except with batch normalization in training mode, whose outputs
    depend on the batch.

    The first few batch shapes are traced once each, all others together. Products run
    eagerly, outside any `tf.function`.
    """

    def __init__(
        self,
        build: Callable[..., BatchOperator],
        operator: type[BatchOperator],
        function: Callable[[Structure, Structure], tf.Tensor],
        parameters: Structure,
        loss: losses.Loss,
        data: Iterable[Any],
        progress: bool,
        check_deterministic: bool = True,
    ) -> None:
        super().__init__(parameters)
        self.positive_semidefinite = operator.positive_semidefinite
        self._operator = operator
        self._data = data
        self._progress = progress
        self._passes = _Passes(build, function, loss)
        self._extent: tuple[int, float] | None = None
        # The fingerprint of the first pass, shared by the operators that `at` makes.
        self._first_pass: list[Fingerprint] = []
        self._check = check_deterministic
        _check_again(data)
        _check_ends(data)
        beginnings = [self._beginning() for _ in range(1 + check_deterministic)]
        if not beginnings[0]:
            raise ValueError(
                "Expected a data set with at least one batch of (inputs, targets), got none."
            )
        if check_deterministic:
            self._check_beginnings(*beginnings)

    def at(self, parameters: Structure) -> DatasetOperator:
        """Returns the same operator at other parameters, without tracing again.

        Args:
          parameters: A structure like the operator's, with the same shapes and dtypes.

        Returns:
          The operator at these parameters.
        """
        moved = object.__new__(type(self))
        moved.__dict__.update(self.__dict__)
        CurvatureOperator.__init__(moved, parameters)
        return moved

    def loss(self) -> tf.Tensor:
        """Returns the mean loss over the data set, a scalar."""
        sums, count, _ = self._sum("loss")
        return sums / tf.constant(count, sums.dtype)

    def gradient(self) -> Structure:
        """Returns the gradient of the mean loss, in the structure of the parameters."""
        sums, count, _ = self._sum("gradient")
        return tf.nest.map_structure(lambda leaf: leaf / tf.constant(count, leaf.dtype), sums)

    def _beginning(self) -> list[tuple[Structure, Batch]]:
        """Returns the first batches of a pass; only one if nothing will be compared."""
        few = itertools.islice(_batches(self._data), _COMPARED if self._check else 1)
        return [_parts(raw, 0) for raw in few]

    def _check_beginnings(self, first: list[Any], second: list[Any]) -> None:
        """Checks that two passes begin alike, and that the function returns the same twice."""
        before, after = Fingerprint(), Fingerprint()
        for seen, beginning in ((before, first), (after, second)):
            for inputs, batch in beginning:
                seen.add(inputs, *batch[:3])
        by_number = self._operator.goes_by_number
        moved = before.changed(after, True)
        if moved and (by_number or len(first) < _COMPARED or len(first) != len(second)):
            check_data(before, after, by_number)
        if not tf.executing_eagerly():
            return
        parameters = tf.nest.pack_sequence_as(self._parameters, self._leaves)
        check_function(*(self._passes.loss_of(parameters, *first[0]) for _ in range(2)))
        if moved:
            # Reordered examples are the same data, unless the outputs depend on the batch.
            check_order(*(float(self.loss()) for _ in range(2)))

    def _product(self, vector: Structure) -> Structure:
        return self._scaled(self._sum("product", vector))

    def _products(self, rows: tf.Tensor) -> tf.Tensor:
        return self._scaled(self._sum("products", rows))

    def _scaled(self, summed: tuple[Structure, float, float]) -> Structure:
        sums, count, examples = summed
        scale = self._operator.normalization(count, examples)
        return tf.nest.map_structure(lambda leaf: leaf * tf.constant(scale, leaf.dtype), sums)

    def _sum(self, what: str, vector: Structure = None) -> tuple[Structure, float, float]:
        """Returns a sum over all batches, and the number of terms and of examples in it."""
        if not tf.executing_eagerly():
            raise RuntimeError(
                "A data set's operator runs over its batches eagerly: call it outside any "
                "tf.function, or make a batch's operator inside."
            )
        function = self._passes.of(what)
        parameters = tf.nest.pack_sequence_as(self._parameters, self._leaves)
        first, total, count, examples, number = 0, None, 0.0, 0.0, 0
        dtypes: Structure = None
        bar = tqdm.tqdm(
            _batches(self._data),
            total=_length(self._data),
            disable=not self._progress,
            unit="batch",
            desc=what,
            leave=False,
            dynamic_ncols=True,
        )
        seen = Fingerprint() if self._check else None
        for raw in bar:
            inputs, batch = _parts(raw, first)
            if seen is not None:
                seen.add(inputs, *batch[:3])
            with losses.targets.spoken_of(f"In batch {number} of the data: "):
                part, terms, present = function(parameters, inputs, batch, vector)
            dtypes = tf.nest.map_structure(lambda leaf: leaf.dtype, part)
            part = tf.nest.map_structure(lambda leaf: tf.cast(leaf, tf.float64), part)
            total = part if total is None else tf.nest.map_structure(tf.add, total, part)
            count += float(terms)
            examples += float(present)
            number += 1
            first += int(batch.targets.shape[0])
        if total is None or not count:
            raise ValueError(
                "Expected a data set with at least one example that is not masked, got "
                f"{number} batches without any."
            )
        self._check_extent(number, count)
        if seen is not None:
            if not self._first_pass:
                self._first_pass.append(seen)
            check_data(self._first_pass[0], seen, self._operator.goes_by_number)
        return tf.nest.map_structure(tf.cast, total, dtypes), count, examples

    def _check_extent(self, batches: int, count: float) -> None:
        extent = (batches, count)
        if self._extent is None:
            self._extent = extent
        elif self._extent != extent:
            raise ValueError(
                f"Expected the same data in every pass, {self._extent[0]} batches of "
                f"{self._extent[1]:g} terms of the loss, got {batches} of {count:g}; a curvature "
                "matrix belongs to fixed data (no repeat, no dropped or random examples)."
            )


class _Passes:
    """The traced functions that compute one batch's share of a sum."""

    def __init__(
        self, build: Callable[..., Any], function: Callable[..., Any], loss: losses.Loss
    ) -> None:
        def loss_of(
            parameters: Structure, inputs: Structure, batch: Batch, vector: Structure
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            del vector
            evaluation = evaluate(loss, function(parameters, inputs), batch)
            return evaluation.value(1.0), evaluation.count, evaluation.examples

        def using(
            result: Callable[[BatchOperator, Structure], Structure],
        ) -> Callable[..., tuple[Structure, tf.Tensor, tf.Tensor]]:
            def run(
                parameters: Structure, inputs: Structure, batch: Batch, vector: Structure
            ) -> tuple[Structure, tf.Tensor, tf.Tensor]:
                operator = build(lambda p: function(p, inputs), parameters, loss, batch, True)
                return result(operator, vector), operator.count, operator.examples

            return run

        self._run, self._loss = function, loss
        self._functions = {
            "loss": _Traced(loss_of),
            "gradient": _Traced(using(lambda operator, _: operator.gradient())),
            "product": _Traced(using(lambda operator, vector: operator._product(vector))),
            "products": _Traced(using(lambda operator, rows: operator._products(rows))),
        }

    def of(self, what: str) -> Callable[..., Any]:
        return self._functions[what]

    def loss_of(self, parameters: Structure, inputs: Structure, batch: Batch) -> tf.Tensor:
        """Returns a batch's loss, eagerly where the function can be called eagerly."""
        with losses.targets.spoken_of("In the first batch of the data: "):
            try:
                return evaluate(self._loss, self._run(parameters, inputs), batch).value(1.0)
            except RuntimeError:  # tf.gradients inside, for example
                return self.of("loss")(parameters, inputs, batch, None)[0]


class _Traced:
    """A function traced for a few static shapes, and once for all others."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._shapes: set[str] = set()
        self._static = tf.function(function, autograph=False)
        self._relaxed = tf.function(function, autograph=False, reduce_retracing=True)

    def __call__(self, *arguments: Any) -> Any:
        leaves = tf.nest.flatten(arguments)
        key = str([None if leaf is None else (leaf.shape, leaf.dtype) for leaf in leaves])
        if key in self._shapes or len(self._shapes) < _STATIC_SHAPES:
            self._shapes.add(key)
            return self._static(*arguments)
        return self._relaxed(*arguments)


def _check_again(data: Any) -> None:
    if isinstance(data, Iterator):
        raise TypeError(
            "Expected data that can be iterated over again for every product (a list of batches, "
            f"a tf.data.Dataset, a keras.utils.PyDataset), got {type(data).__name__}, which is "
            "used up after one pass; pass list(data), or an object whose __iter__ starts anew."
        )
    if not (hasattr(data, "__iter__") or _is_sequence(data)):
        raise TypeError(
            f"Expected an iterable of batches (inputs, targets), got {type(data).__name__}."
        )


def _check_ends(data: Any) -> None:
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Expected data that comes to an end, got a tf.data.Dataset of infinite length, which "
            "a sum over all examples would never leave; take its repeat() away, or a number of "
            "batches by .take(n)."
        )


def _is_sequence(data: Any) -> bool:
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def _batches(data: Any) -> Iterator[Any]:
    if hasattr(data, "__iter__"):
        return iter(data)
    # A keras.utils.PyDataset has only a length and items.
    return (data[i] for i in range(len(data)))


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        # A tf.data.Dataset of unknown length.
        return None


def _parts(batch: Any, first: int) -> tuple[Structure, Batch]:
    """Returns a batch's inputs, and the loss's targets, weights and mask, as tensors."""
    expected = "Expected batches of (inputs, targets[, weights[, mask]])"
    if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 4:
        got = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(f"{expected}, got {got}.")
    inputs = tf.nest.map_structure(_tensor, batch[0])
    parts = [None if part is None else _tensor(part) for part in batch[1:]]
    if parts[0] is None:
        raise ValueError(f"{expected}, got None for the targets.")
    if parts[0].shape.rank == 0:
        raise ValueError(
            "Expected targets whose first axis counts the examples of a batch, got a scalar."
        )
    if parts[0].shape[0] == 0:
        raise ValueError(
            "Expected batches with at least one example, got one with targets of shape "
            f"{parts[0].shape}; leave empty batches out."
        )
    targets, weights, mask = (parts + [None, None])[:3]
    return inputs, Batch(targets, weights, mask, tf.constant(first, tf.int64))


def _tensor(value: Any) -> tf.Tensor:
    if isinstance(value, np.ndarray) or not tf.is_tensor(value):
        value = np.asarray(value)
    return tf.convert_to_tensor(value)
