"""A linear map that is given together with its transpose.

TensorFlow derives the transpose of a map from its operations, one by one. If both directions can
be written as one kernel each, this avoids that; the derivatives with respect to the tensors that
the map itself depends on come from a plain formula of the same map.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from custom_op.linear_maps.held_gradients import custom_gradient

COMPILED_FROM = 2**16  # entries of a tangent from which XLA's compilation pays off

_ONLY_STRUCTURE: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "only_structure", default=False
)


def pays(shape: tf.TensorShape) -> bool:
    """Whether a tensor of this shape is worth its own compiled kernels."""
    size = shape.num_elements()
    return size is not None and size >= COMPILED_FROM


def shaped(value: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    """Returns the result of an XLA kernel, with its shape known to TensorFlow's optimizer.

    The optimizer does not look into functions that XLA compiles. If a gradient needs only the
    shape of a result, it replaces the call by an operation that does nothing but keeps the call's
    attributes, and fails. It leaves calls alone whose results a placeholder reads.

    Args:
      value: The result.
      shape: Its shape.

    Returns:
      The same values.
    """
    return tf.raw_ops.PlaceholderWithDefault(input=value, shape=shape)


@contextlib.contextmanager
def only_structure() -> Iterator[None]:
    """Lets maps that are traced inside return zeros, when only their structure is needed."""
    token = _ONLY_STRUCTURE.set(True)
    try:
        yield
    finally:
        _ONLY_STRUCTURE.reset(token)


def unwanted() -> bool:
    """Whether the results of maps are currently not needed, see `only_structure`."""
    return _ONLY_STRUCTURE.get()


def paired(
    push: Callable[..., tf.Tensor],
    pull: Callable[..., Sequence[tf.Tensor]],
    formula: Callable[..., tf.Tensor],
    constants: Sequence[tf.Tensor],
) -> Callable[..., tf.Tensor]:
    """Returns a linear map whose transpose is given; differentiable to any order.

    Args:
      push: The map, from the tangents and the constants to one tensor.
      pull: The transpose, from a cotangent of that tensor and the constants to one cotangent per
        tangent.
      formula: The same as `push`, in differentiable operations; it alone tells how the map
        depends on the constants.
      constants: The tensors on which the map depends nonlinearly.

    Returns:
      A function of the tangents.
    """
    constants = list(constants)

    # Identities, so that the gradient of a copy of the map, taken in another graph, finds in the
    # graph of the map what it reads.
    def here(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.identity(value) for value in values]

    def in_constants(tangents: Sequence[Any], fixed: Sequence[Any], cotangent: Any) -> list[Any]:
        # Identities hide any dependence of the arguments on each other.
        fixed = here(fixed)
        zero = tf.UnconnectedGradients.ZERO
        value = formula(*tangents, *fixed)
        return tf.gradients(value, fixed, cotangent, unconnected_gradients=zero)

    @custom_gradient
    def forward(*given: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        arguments = here(given)
        count = len(arguments) - len(constants)
        tangents, fixed = arguments[:count], arguments[count:]

        def vjp(cotangent: tf.Tensor) -> list[tf.Tensor]:
            back = backward(cotangent, *fixed)
            back = back if isinstance(back, (list, tuple)) else [back]
            return [*back, *in_constants(tangents, fixed, cotangent)]

        return push(*arguments), vjp

    @custom_gradient
    def backward(*given: tf.Tensor) -> tuple[Sequence[tf.Tensor], Callable[..., list[tf.Tensor]]]:
        cotangent, *fixed = here(given)

        def vjp(*tangents: tf.Tensor) -> list[tf.Tensor]:
            # <Jᵀu, t> = <u, Jt> has the same derivative in the constants as the map.
            return [forward(*tangents, *fixed), *in_constants(tangents, fixed, cotangent)]

        return pull(cotangent, *fixed), vjp

    return lambda *tangents: forward(*tangents, *constants)
