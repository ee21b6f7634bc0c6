"""Operations whose second derivatives TensorFlow gets wrong without a word."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

NO_SECOND = {
    "ResizeBilinear": "bilinear tf.image.resize",
    "LRN": "tf.nn.local_response_normalization",
}


def check_graph(graph: tf.Graph, leaves: Sequence[tf.Tensor], names: Sequence[str]) -> None:
    """Refuses a traced training loss that training cannot be differentiated through.

    Args:
      graph: The graph that the loss and its gradient were traced into.
      leaves: The hyperparameters in it.
      names: Their names.

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
    for op in graph.get_operations():
        if op.type == "SoftmaxCrossEntropyWithLogits":
            for leaf, name in zip(leaves, names, strict=True):
                if _depends(op.inputs[1], leaf):
                    raise ValueError(
                        f"The targets of tf.nn.softmax_cross_entropy_with_logits ({op.name!r}) "
                        f"depend on the hyperparameter {name!r}; its derivative with respect to "
                        "targets is wrong to second order. Write the loss as "
                        "mlhf.hypergrad.softmax_cross_entropy(targets, logits)."
                    )


def softmax_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross entropy of each example, right to any order in targets and logits.

    Args:
      targets: Probabilities [..., C]; they need not sum to one.
      logits: [..., C].

    Returns:
      -Σ targets · log softmax(logits), of shape [...].
    """
    return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), -1)


def _operations(graph):
    yield from graph.get_operations()
    for name in getattr(graph, "_functions", {}):
        inner = graph._functions[name]
        inner = getattr(inner, "graph", None)
        if inner is not None:
            yield from inner.get_operations()


def _depends(tensor, leaf):
    seen, waiting = set(), [tensor]
    while waiting:
        current = waiting.pop()
        if current is leaf:
            return True
        if current.op in seen:
            continue
        seen.add(current.op)
        waiting.extend(current.op.inputs)
    return False
