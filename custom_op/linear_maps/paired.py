"""A linear map that is given together with its transpose.

TensorFlow derives the transpose of a map from its operations, one by one. Where both directions
can be written down as one kernel each, this keeps it from doing so, and the derivatives with
respect to what the map itself depends on come from a plain formula of the same map.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from custom_op.linear_maps.held_gradients import custom_gradient

COMPILED_FROM = 2**16  # entries of a tangent: where the time that XLA takes to compile pays

_ONLY_STRUCTURE: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "only_structure", default=False
)


def pays(shape: tf.TensorShape) -> bool:
    """Whether a tensor of this shape is worth kernels of its own."""
    size = shape.num_elements()
    return size is not None and size >= COMPILED_FROM


def shaped(value: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Returns what XLA has compiled, with its shape known to TensorFlow's optimizer.

    The optimizer does not look into what XLA compiles. A gradient may want nothing of a result but
    its shape; the optimizer then puts in the place of a call an operation that does nothing, and
    fails, for it leaves the call's attributes to it. It leaves calls alone that a placeholder
    reads.
    """
    return tf.raw_ops.PlaceholderWithDefault(input=value, shape=shape)


@contextlib.contextmanager
def only_structure() -> Iterator[None]:
    """Has maps that are traced within return zeros: just what they are made of is wanted."""
    token = _ONLY_STRUCTURE.set(True)
    try:
        yield
    finally:
        _ONLY_STRUCTURE.reset(token)


def unwanted() -> bool:
    """Whether nobody reads what a map returns now."""
    return _ONLY_STRUCTURE.get()


def paired(
    push: Callable[..., tf.Tensor],
    pull: Callable[..., Sequence[tf.Tensor]],
    formula: Callable[..., tf.Tensor],
    constants: Sequence[tf.Tensor],
) -> Callable[..., tf.Tensor]:
    """Returns a linear map whose transpose is given; differentiable to any order.

    Args:
      push: The map: takes the tangents and the constants, returns one tensor.
      pull: The transpose: takes a cotangent of that and the constants, returns one a tangent.
      formula: What `push` computes, in differentiable operations; it alone says how the map
        depends on the constants.
      constants: What the map depends on, not linearly.

    Returns:
      A function of the tangents.
    """
    constants = list(constants)

    # Identities: a gradient that is asked for elsewhere, of a copy of the map, finds in the graph
    # of the map what it reads.
    def here(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.identity(value) for value in values]

    def in_constants(tangents: Sequence[Any], fixed: Sequence[Any], cotangent: Any) -> list:
        # Not by what other ways the formula's arguments depend on each other.
        fixed = here(fixed)
        zero = tf.UnconnectedGradients.ZERO
        value = formula(*tangents, *fixed)
        return tf.gradients(value, fixed, cotangent, unconnected_gradients=zero)

    @custom_gradient
    def forward(*given):
        arguments = here(given)
        count = len(arguments) - len(constants)
        tangents, fixed = arguments[:count], arguments[count:]

        def vjp(cotangent):
            back = backward(cotangent, *fixed)
            back = back if isinstance(back, (list, tuple)) else [back]
            return [*back, *in_constants(tangents, fixed, cotangent)]

        return push(*arguments), vjp

    @custom_gradient
    def backward(*given):
        cotangent, *fixed = here(given)

        def vjp(*tangents):
            # <Jᵀu, t> = <u, Jt>: the same derivative in the constants as that of the map.
            return [forward(*tangents, *fixed), *in_constants(tangents, fixed, cotangent)]

        return pull(cotangent, *fixed), vjp

    return lambda *tangents: forward(*tangents, *constants)
