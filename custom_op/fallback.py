"""Tangents through an operation without a rule: its vector-Jacobian product, transposed."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import tensorflow as tf

from custom_op import registry
from custom_op import tensorflow_internals as internals

# The errors that TensorFlow raises where a derivative does not exist.
_FAILURES = (LookupError, TypeError, NotImplementedError)

# Operations whose gradient in TensorFlow is wrong, or fails when it runs.
WRONG = dict.fromkeys(
    ("ImageProjectiveTransformV2", "ImageProjectiveTransformV3"),
    "TensorFlow's gradient of it resamples by the inverse transform, which is not its transpose",
)
WRONG["EagerPyFunc"] = (
    "the gradient of a tf.py_function belongs to the call that ran, and a copy of it has none"
)


class NotDifferentiableError(LookupError):
    """An operation has neither an R-forward rule nor a gradient that can be differentiated.

    In a `tf.function` whose Python code TensorFlow converts (`autograph=True`, its default), the
    caller sees TensorFlow's `StagingError` with the same text.
    """


def carries_tangents(tensor: tf.Tensor) -> bool:
    """Whether a tensor may have a tangent: floating, complex, or a list of tensors."""
    return tensor.dtype.is_floating or tensor.dtype.is_complex or tensor.dtype == tf.variant


def double_vjp(op: tf.Operation, needed: Container[Any] = ()) -> registry.LinearMap:
    """Returns the tangent map of one operation, as the transpose of its transpose.

    TensorFlow's gradient of the operation gives v(u) = Jᵀu, which is linear in u; so Jt is the
    gradient of <v(u), t> with respect to u.

    Args:
      op: The operation. It runs again wherever the map is applied.
      needed: References of the tensors whose tangents are read: a gradient that ignores one of
        these is an error.

    Returns:
      A map from one tangent (or None) per input to one tangent (or None) per output. It raises
      NotDifferentiableError where no such derivative exists.
    """

    def tangent_map(*tangents: tf.Tensor | None) -> list[tf.Tensor | None]:
        _check_supported(op)
        live = [i for i, tangent in enumerate(tangents) if tangent is not None]
        result: list[tf.Tensor | None] = [None] * len(op.outputs)
        floating = [i for i, output in enumerate(op.outputs) if carries_tangents(output)]
        if not floating:
            return result
        try:
            seeds, pulled = _pull(op, live, floating)
            _check_constants(op, live, pulled)
            pairs = [
                (tf.convert_to_tensor(value), tangents[i])
                for value, i in zip(pulled, live, strict=True)
                if value is not None
            ]
            if not pairs:
                return result
            pushed = tf.gradients(
                [value for value, _ in pairs], seeds, grad_ys=[tangent for _, tangent in pairs]
            )
        except NotDifferentiableError:
            raise
        except _FAILURES as error:
            raise _without_second_derivative(op, error) from error
        if all(value is None for value in pushed):
            raise NotDifferentiableError(
                refusal(
                    op, "it has no R-forward rule, and its gradient's own derivative is missing"
                )
            )
        for i, value in zip(floating, pushed, strict=True):
            if value is None and op.outputs[i].ref() in needed:
                _check_ignored(op, i)
            result[i] = None if value is None else tf.convert_to_tensor(value)
        return result

    return tangent_map


# Gradients are looked up inside the former; those of the latter are zero on purpose.
_CONTROL = ("Case", "If", "While", "StatelessCase", "StatelessIf", "StatelessWhile")
_CONSTANT = ("OnesLike", "StopGradient", "ZerosLike")


def check_no_silent_zero(
    tangents: Sequence[tf.Tensor],
    pushed: Sequence[tf.Tensor],
    operations: Sequence[tf.Operation],
) -> None:
    """Raises where a tangent passes an operation that TensorFlow's gradients take for a constant.

    `tf.no_gradient` marks operations that have no gradient. Such an operation in a rule would
    silently make the transpose zero along its path.

    Args:
      tangents: The tangents of the inputs.
      pushed: The tangents of the outputs.
      operations: The operations built from the former to make the latter, in order.

    Raises:
      NotDifferentiableError: If a tangent passes such an operation.
    """
    live = {tangent.ref() for tangent in tangents}
    reached = []
    for op in operations:
        if op.type not in _CONSTANT and any(value.ref() in live for value in op.inputs):
            outputs = [output for output in op.outputs if carries_tangents(output)]
            live.update(output.ref() for output in outputs)
            if outputs:
                reached.append(op)
    # Backwards: the gradients of operations that a custom_gradient replaces are not needed.
    wanted = {tangent.ref() for tangent in pushed}
    for op in reversed(reached):
        if not any(output.ref() in wanted for output in op.outputs):
            continue
        if registry.has_custom_gradient(op):
            continue
        if op.type not in _CONTROL and _marked_as_constant(op):
            raise NotDifferentiableError(
                "No cotangent passes what an R-forward rule is made of: TensorFlow marks "
                f"{op.type!r} (named {op.name!r}) as not differentiable, and takes its gradient "
                "for zero. Build the rule of operations that have a gradient."
            )
        wanted.update(value.ref() for value in op.inputs)


def _marked_as_constant(op: tf.Operation) -> bool:
    try:
        return internals.gradient_function(op) is None
    except LookupError:
        return False  # `tf.gradients` will name it.


def inputs_with_gradient(op: tf.Operation) -> list[int]:
    """Returns the positions of the inputs that an operation's gradient reaches."""
    inputs = [i for i, value in enumerate(op.inputs) if carries_tangents(value)]
    outputs = [i for i, value in enumerate(op.outputs) if carries_tangents(value)]
    reached: list[int] = []

    def probe() -> None:
        _, pulled = _pull(op, inputs, outputs)
        reached.extend(i for i, value in zip(inputs, pulled, strict=True) if value is not None)

    try:
        # In a graph of its own, so that the trial is never run.
        tf.function(probe, autograph=False).get_concrete_function()
    except _FAILURES as error:
        raise _without_second_derivative(op, error) from error
    return reached


def _without_second_derivative(op: tf.Operation, error: Exception) -> NotDifferentiableError:
    reason = str(error).split(". ")[0].rstrip(".")
    if registry.has_custom_gradient(op):
        return NotDifferentiableError(
            refusal(
                op,
                f"the gradient of a tf.custom_gradient can't be differentiated ({reason})",
                "write that gradient in differentiable operations; in the place of "
                "tf.recompute_grad take custom_op.checkpoint",
            )
        )
    return NotDifferentiableError(
        refusal(
            op, f"it has no R-forward rule, and its gradient can't be differentiated ({reason})"
        )
    )


def refusal(op: tf.Operation, reason: str, advice: str | None = None) -> str:
    """Returns a message with the operation's name, why no tangent passes it, and a way out."""
    advice = advice or (
        f"register a rule with custom_op.register_r_forward({op.type!r}), or build the network "
        "without it"
    )
    scope = op.name.rpartition("/")[0]
    where = f"named {op.name!r}" + (f", in the layer or scope {scope!r}" if scope else "")
    return f"No tangent passes the operation {op.type!r} ({where}): {reason}; {advice}."


def _pull(
    op: tf.Operation, live: Sequence[int], floating: Sequence[int]
) -> tuple[list[tf.Tensor], list[tf.Tensor | None]]:
    """Runs the operation again; returns cotangents of its outputs and, from them, of its inputs."""
    inputs = [tf.identity(value) if i in live else value for i, value in enumerate(op.inputs)]
    outputs = registry.replay(op, inputs)
    seeds = [tf.zeros_like(outputs[i]) for i in floating]
    pulled = tf.gradients([outputs[i] for i in floating], [inputs[i] for i in live], grad_ys=seeds)
    return seeds, pulled


def _check_constants(
    op: tf.Operation, live: Sequence[int], pulled: Sequence[tf.Tensor | None]
) -> None:
    """Raises where TensorFlow leaves out a derivative, a silent zero in its gradients."""
    if registry.has_custom_gradient(op):
        return  # A custom_gradient returns None on purpose.
    missing = [i for i, value in zip(live, pulled, strict=True) if value is None]
    if missing:
        names = [_name(op.op_def.input_arg, len(op.inputs), i) for i in missing]
        raise NotDifferentiableError(
            refusal(
                op,
                f"it has no R-forward rule, and its gradient in the input {names[0]!r} is missing",
                "stop that input with tf.stop_gradient if it is meant to be constant, or register "
                f"a rule with custom_op.register_r_forward({op.type!r})",
            )
        )


def _check_ignored(op: tf.Operation, position: int) -> None:
    """Raises for an output that the gradient leaves out, a silent zero in its tangent."""
    if registry.has_custom_gradient(op):
        return  # A custom_gradient leaves outputs out on purpose.
    if op.type == "LogMatrixDeterminant" and op.outputs[position].dtype.is_floating:
        return  # The sign of a real determinant is piecewise constant.
    name = _name(op.op_def.output_arg, len(op.outputs), position)
    raise NotDifferentiableError(
        refusal(
            op,
            f"it has no R-forward rule, and its gradient leaves out the output {name!r}, on which "
            "the result depends; a second derivative needs it where the output is itself a "
            "gradient",
        )
    )


def _name(arguments: Sequence[Any], count: int, position: int) -> str:
    names = [argument.name for argument in arguments]
    return names[position] if len(names) == count else str(position)


def _check_supported(op: tf.Operation) -> None:
    if op.type in WRONG:
        raise NotDifferentiableError(refusal(op, WRONG[op.type]))
    if not internals.is_operation(op.type):
        raise NotDifferentiableError(
            refusal(
                op,
                "it calls a function of TensorFlow 1 by name, as the loops in tf.nn.ctc_loss do",
                "build the network without it",
            )
        )
    if any(value.dtype == tf.variant for value in [*op.inputs, *op.outputs]):
        raise NotDifferentiableError(
            refusal(
                op,
                "it keeps tensors in a list, as tf.map_fn, tf.scan and TensorArray do",
                "use tf.stack and tf.unstack",
            )
        )
