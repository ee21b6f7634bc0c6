"""Tangents through an operation without a rule: its vector-Jacobian product, transposed."""

from __future__ import annotations

import tensorflow as tf

from custom_op import registry


class NotDifferentiableError(LookupError):
    """An operation has neither an R-forward rule nor a gradient that can be differentiated."""


def double_vjp(op: tf.Operation) -> registry.LinearMap:
    """Returns the tangent map of one operation, as the transpose of its transpose.

    With v(u) = Jᵀu, which TensorFlow's gradient of the operation gives and which is linear in u,
    Jt is the gradient of <v(u), t> with respect to u.

    Args:
      op: The operation. It runs again wherever the map is applied.

    Returns:
      A map from one tangent (or None) an input to one tangent (or None) an output.
    """

    def tangent_map(*tangents: tf.Tensor | None) -> list[tf.Tensor | None]:
        live = [i for i, tangent in enumerate(tangents) if tangent is not None]
        inputs = [
            tf.identity(value) if i in live else value for i, value in enumerate(op.inputs)
        ]
        outputs = registry.replay(op, inputs)
        floating = [i for i, output in enumerate(outputs) if output.dtype.is_floating]
        seeds = [tf.zeros_like(outputs[i]) for i in floating]
        try:
            pulled = tf.gradients(
                [outputs[i] for i in floating], [inputs[i] for i in live], grad_ys=seeds
            )
            pairs = [
                (value, tangents[i])
                for value, i in zip(pulled, live, strict=True)
                if value is not None
            ]
            if not pairs:
                return [None] * len(outputs)
            pushed = tf.gradients(
                [value for value, _ in pairs], seeds, grad_ys=[tangent for _, tangent in pairs]
            )
        except (LookupError, TypeError, NotImplementedError) as error:
            raise _refusal(op, str(error)) from error
        if all(value is None for value in pushed):
            raise _refusal(op, "its gradient does not depend on the incoming gradient")
        result: list[tf.Tensor | None] = [None] * len(outputs)
        for i, value in zip(floating, pushed, strict=True):
            result[i] = value
        return result

    return tangent_map


def _refusal(op: tf.Operation, reason: str) -> NotDifferentiableError:
    return NotDifferentiableError(
        f"No tangent passes the operation {op.type!r} (named {op.name!r}): it has no R-forward "
        f"rule, and its gradient can't be differentiated ({reason}). Register a rule with "
        f"custom_op.register_r_forward({op.type!r}), or build the network without it."
    )
