"""The table of R-forward rules, one for each type of TensorFlow operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from custom_op import tensorflow_internals as internals
from custom_op.linear_maps import held_gradients

LinearMap = Callable[..., Any]
Rule = Callable[[tf.Operation], LinearMap]

_RULES: dict[str, Rule] = {}


def register_r_forward(*op_types: str, override: bool = False) -> Callable[[Rule], Rule]:
    """Registers how tangents pass through an operation (Pearlmutter 1994, the R-operator).

    A rule is called once per operation, when a function is linearized, in the graph that holds
    the operation. Whatever it computes there is kept and serves every product. It returns the
    linear map from the tangents of the operation's inputs (one argument per input, `None` for an
    input that does not depend on the primals) to the tangents of its outputs (a tensor, a sequence
    with one entry per output, or `None` for zero)::

        @custom_op.register_r_forward("Softsign")
        def softsign(op):
            slope = 1 / tf.square(1 + tf.abs(op.inputs[0]))
            return lambda tangent: slope * tangent

    The map must be built from differentiable TensorFlow operations: its transpose, which
    vector-Jacobian products use, is derived from it automatically.

    Args:
      *op_types: The types (`tf.Operation.type`) that the rule serves.
      override: Whether an existing rule may be replaced.

    Returns:
      A decorator that registers the rule and returns it unchanged.

    Raises:
      ValueError: If no type is given, or a type has a rule and `override` is false.
    """
    if not op_types:
        raise ValueError('register_r_forward needs an operation\'s type, for example "Softsign".')

    def register(rule: Rule) -> Rule:
        for op_type in op_types:
            if op_type in _RULES and not override:
                raise ValueError(
                    f"{op_type!r} has an R-forward rule already; pass override=True to replace it."
                )
            _RULES[op_type] = rule
        return rule

    return register


def supported_ops() -> list[str]:
    """Returns the types of operation that have a rule of their own, sorted."""
    return sorted(_RULES)


def find_rule(op_type: str) -> Rule | None:
    """Returns the rule of a type of operation, or None."""
    return _RULES.get(op_type)


def has_custom_gradient(op: tf.Operation) -> bool:
    """Whether a `tf.custom_gradient` replaces the operation's derivative."""
    return internals.custom_gradient_of(op) is not None


def replay(
    op: tf.Operation,
    inputs: Sequence[tf.Tensor],
    gradient: str | None = None,
    dtype: tf.DType | None = None,
) -> list[tf.Tensor]:
    """Runs an operation of a traced function again, on other inputs, in the current graph.

    Args:
      op: The operation to run again; its attributes are kept.
      inputs: A tensor for each of its inputs, with the same shapes and dtypes. Tensors of an outer
        graph are captured.
      gradient: The name of a registered gradient for the copy; by default the original's.
      dtype: The dtype that replaces float32 in the copy and its inputs.

    Returns:
      The outputs, in order.
    """
    graph = tf.compat.v1.get_default_graph()
    attributes = dict(op.node_def.attr)
    # The operation it was colocated with is irrelevant here, and may not exist in this graph.
    attributes.pop("_class", None)
    if gradient is not None:
        kind = internals.CUSTOM_GRADIENT
        attributes[kind] = type(op.node_def.attr[kind])(s=gradient.encode())
    elif has_custom_gradient(op):
        held_gradients.share(graph, internals.custom_gradient_of(op) or "")
    dtypes = [output.dtype for output in op.outputs]
    if dtype is not None:
        dtypes = [dtype if each == tf.float32 else each for each in dtypes]
        for name, value in attributes.items():
            if value.type == tf.float32.as_datatype_enum:
                attributes[name] = type(value)(type=dtype.as_datatype_enum)
    copy = graph.create_op(
        op.type,
        [tf.convert_to_tensor(value) for value in inputs],
        dtypes,
        attrs=attributes,
        op_def=op.op_def,
        # The end of the name stays: moments.py recognizes some operations by it.
        name=f"r_{op.name.rpartition('/')[2]}",
    )
    # Inside a loop the constant axes and sizes of an outer graph are unknown, and so are the shapes
    # that depend on them; a gradient would then compute a whole tangent to read its shape.
    for output, original in zip(copy.outputs, op.outputs, strict=True):
        output.set_shape(original.shape)
    record(copy)
    return list(copy.outputs)


def record(op: tf.Operation) -> None:
    """Shows an operation to the gradient tapes that are watching.

    TensorFlow's Python functions do this for the operations that they build. An operation that is
    copied or imported into a graph must be shown, or a tape takes its output for a constant.

    Args:
      op: An operation of the current graph.
    """
    if internals.is_recorded():
        # A custom_gradient may have replaced the operation's own derivative.
        internals.show_to_tapes(op, internals.custom_gradient_of(op) or op.type)
