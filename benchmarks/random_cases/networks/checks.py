"""The products of custom_op and a step of mlhf at a random network, in each mode."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import custom_op
import mlhf
from benchmarks.random_cases.networks.program import Program
from benchmarks.random_cases.networks.reference import Estimate, Reference
from benchmarks.random_cases.outcome import FAILED, NO_KERNEL, OK, REFUSED

MODES = ("eager", "graph", "xla")
RELATIVE, RELATIVE_SINGLE = 1e-6, 2e-4  # relative to a block's largest entry
REPEATS = 3  # of the compiled products, which must be the same each time
_MISSING = re.compile(
    r"unsupported operations|No registered '\w+' OpKernel|not compilable|XLA_CPU"
    r"|XLA does not support"
)
# For networks that end in a sigmoid or softmax, under a loss that applies its own.
_PROBABILITIES = re.compile(r"returns outputs from before their (softmax|sigmoid)")


def products(
    program: Program, reference: Reference, every: bool = False
) -> Callable[[tf.Tensor], dict[str, Any]]:
    """Returns the function of the flat parameters that computes all products.

    Args:
      program: The network.
      reference: Its directions.
      every: Whether to include Jᵀu, and to compute the Hessian's product as one of several, in a
        loop.

    Returns:
      The function; its results are flat, by the names of the reference's products.
    """
    network = program.network()

    def compute(flat: tf.Tensor) -> dict[str, Any]:
        parameters = program.structure(flat)
        v = program.structure(reference.v)
        u = tf.reshape(tf.constant(reference.u), reference.outputs.shape)
        batch: dict[str, Any] = {"targets": program.targets, "weights": program.weights}
        gauss_newton = custom_op.gauss_newton(network, parameters, program.loss, **batch)
        hessian = custom_op.hessian(network, parameters, program.loss, **batch)
        linear = gauss_newton._linearization  # as `custom_op.linearize` returns it
        results = {"JT u": _flat(linear.vjp(u))} if every else {}
        return results | {
            "gradient": _flat(hessian.gradient()),
            "z": _flat(linear.outputs),
            "J v": _flat(linear.jvp(v)),
            "G v": _flat(gauss_newton @ v),
            "H v": _flat(hessian @ v)
            if not every
            else (hessian @ tf.stack([0.5 * reference.v, reference.v], 1))[:, 1],
        }

    return compute


def step(program: Program, reference: Reference, jit_compile: bool) -> dict[str, np.ndarray]:
    """Returns the parameters after a Hessian-free step, and those of a dense solution.

    Args:
      program: The network; the step takes no weights of examples.
      reference: Its gradient and Gauss-Newton matrix.
      jit_compile: Whether the step is compiled by XLA.

    Returns:
      Both, flat.
    """
    network = program.network()
    size = reference.v.size
    damping = 0.1 + float(np.trace(reference.gauss_newton)) / size
    optimizer = mlhf.HessianFree(
        learning_rate=0.7, damping=damping, cg_iterations=3 * size, jit_compile=jit_compile
    )
    parameters = program.structure(program.point())
    objective = mlhf.Objective(
        lambda leaves, _: network(leaves), program.loss, np.zeros([1]), program.targets
    )
    taken = optimizer.step(objective, parameters, optimizer.init(parameters))
    matrix = reference.gauss_newton + damping * np.eye(size)
    dense = np.linalg.solve(matrix, reference.products["gradient"].value)
    return {"taken": np.asarray(_flat(taken.parameters)), "dense": program.point() - 0.7 * dense}


def check(
    program: Program, reference: Reference, mode: str, *, every: bool = False
) -> tuple[str, str]:
    """Compares a network's products in one mode.

    Args:
      program: The network.
      reference: The expected products.
      mode: One of `MODES`.
      every: See `products`; if true, a step is compared too.

    Returns:
      The result, and a sentence if it is not `OK`.
    """
    compute = products(program, reference, every)
    if mode != "eager":
        compute = tf.function(compute, autograph=False, jit_compile=mode == "xla")
    point = tf.constant(program.point())
    try:
        results = [
            {name: np.asarray(value) for name, value in compute(point).items()}
            for _ in range(1 if mode == "eager" else REPEATS)
        ]
        differences = _differences(program, reference, results)
        if every and mode != "eager" and program.weights is None:
            differences += _difference_of_step(program, reference, mode == "xla")
    except custom_op.NotDifferentiableError as error:
        return REFUSED, f"{mode}: {error}"
    except Exception as error:
        return _failure(program, mode, error)
    if differences:
        return FAILED, f"{mode}: " + "; ".join(differences)
    return OK, ""


def _failure(program: Program, mode: str, error: Exception) -> tuple[str, str]:
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and _PROBABILITIES.search(text):
        return REFUSED, f"{mode}: {text}"
    if mode == "xla" and not _runs(program):
        return NO_KERNEL, f"xla, forward: {text[:200]}"
    if mode == "xla" and _MISSING.search(text):
        names = sorted(set(re.findall(r"\{\{node [^}]*\}\}|OpKernel|'(\w+)'", text)) - {""})
        return NO_KERNEL, f"xla, derivatives: no kernel of {', '.join(names) or text[:200]}"
    return FAILED, f"{mode}: {type(error).__name__}: {text[:600]}"


def _runs(program: Program) -> bool:
    """Whether XLA can run the network's forward pass."""
    network = program.network()
    forward = tf.function(network, autograph=False, jit_compile=True)
    try:
        forward(program.structure(program.point()))
    except Exception:
        return False
    return True


def _differences(program: Program, reference: Reference, results: list[dict]) -> list[str]:
    found = []
    single = program.single
    for repeat, result in enumerate(results):
        for name, got in result.items():
            expected = (
                Estimate(reference.outputs.reshape(-1), np.zeros(1))
                if name == "z"
                else reference.products[name]
            )
            in_outputs = name in ("z", "J v")
            blocks = [slice(None)] if in_outputs else _blocks(program)
            found += [
                f"{name}{'' if repeat == 0 else f' (repeat {repeat + 1})'}: {text}"
                for block in blocks
                if (text := _compared(expected, got, block, single))
            ]
    return found


def _difference_of_step(program: Program, reference: Reference, xla: bool) -> list[str]:
    taken = step(program, reference, xla)
    expected = Estimate(taken["dense"], np.array(0.0))
    text = _compared(expected, taken["taken"], slice(None), program.single, factor=30)
    return [f"step: {text}"] if text else []


def _compared(
    expected: Estimate, got: np.ndarray, block: slice, single: bool, factor: float = 1.0
) -> str:
    """Says where a block differs by more than both sides' errors; empty if it does not."""
    want = expected.value[block]
    error = expected.error[block] if expected.error.size > 1 else expected.error
    largest = np.max(np.abs(want), initial=0)
    # A block that is zero, or far smaller than the others, has their digits.
    scale = max(largest, 1e-3 * np.max(np.abs(expected.value), initial=0), 1e-3)
    relative = (RELATIVE_SINGLE if single else RELATIVE) * factor
    allowed = relative * scale + 10 * np.max(error, initial=0)
    off = np.max(np.abs(got[block] - want), initial=0)
    if off <= allowed:  # False for NaN
        return ""
    worst = int(np.argmax(np.nan_to_num(np.abs(got[block] - want), nan=np.inf)))
    return (
        f"expected {want[worst]:.8g}, got {got[block][worst]:.8g} at {worst} "
        f"(off by {off:.1e}, allowed {allowed:.1e})"
    )


def _blocks(program: Program) -> list[slice]:
    """Where each parameter stands in the flat vector."""
    ends = np.cumsum([values.size for values in program.parameters.values()])
    return [
        slice(int(b - v.size), int(b))
        for b, v in zip(ends, program.parameters.values(), strict=True)
    ]


def _flat(structure: Any) -> tf.Tensor:
    return tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(structure)], 0)
