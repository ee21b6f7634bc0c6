"""Refuses operations whose second derivatives are silently wrong in TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from custom_op import tensorflow_internals as internals
from custom_op.graphs.copying import Branches, Loop
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS, called_graph

NO_SECOND = {
    "ResizeBilinear": "bilinear tf.image.resize",
    "LRN": "tf.nn.local_response_normalization",
}


def check_graph(graph: tf.Graph, leaves: Sequence[tf.Tensor], names: Sequence[str]) -> None:
    """Refuses a traced training loss that training cannot be differentiated through.

    Args:
      graph: The graph that the loss and its gradient were traced into.
      leaves: The hyperparameters in the graph.
      names: The names of the hyperparameters.

    Raises:
      ValueError: If it computes moments by `tf.nn.moments` (as the normalisation layers of Keras
        do in training mode), takes the cross entropy of TensorFlow with targets that depend on a
        hyperparameter, or has an operation without a second derivative.
    """
    for op in _operations(graph):
        if op.type == "StopGradient" and "moments/" in op.name:
            raise ValueError(
                f"The operation {op.name!r} belongs to tf.nn.moments, whose second derivative is "
                "wrong: it holds the mean constant inside the variance. The normalisation layers "
                "of Keras use it in training mode. Call the model with training=False, so that "
                "moving statistics are used; or normalise with tf.reduce_mean and "
                "tf.math.reduce_variance; or pass Problem(check_layers=False) if you know that it "
                "does no harm."
            )
        if op.type in NO_SECOND:
            raise ValueError(
                f"{NO_SECOND[op.type]} ({op.name!r}) has no second derivative in TensorFlow, and "
                "training cannot be differentiated through it. Apply it to the data before, or "
                "replace it."
            )
    for leaf, name in zip(leaves, names, strict=True):
        for op in _cross_entropies(graph.get_operations(), {leaf.ref()}):
            raise ValueError(
                f"The targets of tf.nn.softmax_cross_entropy_with_logits ({op.name!r}) "
                f"depend on the hyperparameter {name!r}; its derivative with respect to "
                "targets is wrong to second order. Write the loss as "
                "mlhf.hypergrad.softmax_cross_entropy(targets, logits)."
            )


def softmax_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross entropy of each example, correct to any order in targets and logits.

    Args:
      targets: Probabilities [..., C]; they need not sum to one.
      logits: Logits [..., C].

    Returns:
      -Σ targets · log softmax(logits), of shape [...].
    """
    return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), -1)


def _operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Yields the operations of a graph and of the functions that it calls."""
    yield from graph.get_operations()
    for inner in internals.graphs_of_functions(graph):
        yield from inner.get_operations()


def _cross_entropies(
    operations: Sequence[tf.Operation], reached: set[Any]
) -> dict[tf.Operation, None]:
    """Returns TensorFlow's cross entropies whose targets depend on given tensors.

    Args:
      operations: All operations of a graph; calls, loops and branches are followed.
      reached: References to these tensors of the graph; those that depend on them are added.
    """
    entropies: dict[tf.Operation, None] = {}
    before = -1
    # More than once, because an operation may read a tensor that was made after it.
    while len(reached) > before:
        before = len(reached)
        for op in operations:
            reads = [tensor.ref() in reached for tensor in op.inputs]
            if not any(reads):
                continue
            if op.type == "SoftmaxCrossEntropyWithLogits" and reads[1]:
                entropies[op] = None
            writes, inside = _through(op, reads)
            entropies.update(inside)
            reached.update(
                tensor.ref() for tensor, there in zip(op.outputs, writes, strict=True) if there
            )
    return entropies


def _through(
    op: tf.Operation, reads: Sequence[bool]
) -> tuple[Sequence[bool], dict[tf.Operation, None]]:
    """Returns which outputs depend on the inputs that are read, and the cross entropies between."""
    if op.type in CALLS:
        body = called_graph(op)
        outputs = body.outputs[: len(op.outputs)]
        return _inside(body.get_operations(), body.inputs, reads, outputs)
    if op.type in LOOPS:
        loop = Loop(op)
        while True:
            writes, found = _inside(loop.operations, loop.variables, reads, loop.results)
            after = [a or b for a, b in zip(reads, writes, strict=True)]
            if after == list(reads):
                return after, found
            reads = after
    if op.type in BRANCHES:
        branches = Branches(op)
        writes, found = [reads[0]] * len(op.outputs), {}
        for operations, inputs, outputs in zip(
            branches.operations, branches.inputs, branches.outputs, strict=True
        ):
            there, inside = _inside(operations, inputs, reads[1:], outputs)
            writes = [a or b for a, b in zip(writes, there, strict=True)]
            found.update(inside)
        return writes, found
    return [True] * len(op.outputs), {}


def _inside(
    operations: Sequence[tf.Operation],
    inputs: Sequence[tf.Tensor],
    reads: Sequence[bool],
    outputs: Sequence[tf.Tensor],
) -> tuple[list[bool], dict[tf.Operation, None]]:
    """Does for a function's body what `_through` does for an operation."""
    reached = {tensor.ref() for tensor, there in zip(inputs, reads, strict=True) if there}
    found = _cross_entropies(operations, reached)
    return [tensor.ref() in reached for tensor in outputs], found
