"""Measures a meta-step of MLHF and where its time goes: `python benchmarks/meta_step.py`.

First `mlhf.meta_train` runs some meta-steps, as a user would; then the pieces of a meta-step are
compiled and timed one by one. A piece's share is its median seconds times its number of uses per
meta-step, divided by the median seconds of a meta-step. The remainder is called the rest: Adam, the
noise, the limit on the step, storing tensors for the backward pass. Pieces that a meta-step runs
concurrently, and other load on the machine, reduce the rest, which can become negative.

The figures are meaningful only on a quiet machine.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import train_val  # noqa: F401  (before TensorFlow, which it keeps quiet)
from mlhf.meta_optimizer import recorded_cg
from mlhf.optimizers import curvature_shares

# isort: split
import numpy as np
import tensorflow as tf
from absl import app, flags

import mlhf
from mlhf.meta_optimizer import coordinate_lstm
from mlhf.meta_optimizer.coordinate_lstm import Cotangent
from train_val.problems import image_problems

FLAGS = flags.FLAGS
IMPORTED = time.time()
IMAGE_SHAPE, CLASSES = (32, 32, 3), 10
KEEP_PROB = 0.3


class Piece(NamedTuple):
    """A part of a meta-step."""

    group: str  # the row of the table that it counts in
    seconds: float  # the time of one use
    times: int  # the number of uses per meta-step


def process_start() -> float:
    """Returns the start time of this process, in the seconds of `time.time`.

    On systems other than Linux it is the time of this module's import, a few seconds later, after
    that of TensorFlow.

    Returns:
      The seconds.
    """
    try:
        # The name of the program, in parentheses, may hold spaces; field 22 counts from the pid.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = float(fields[19]) / os.sysconf("SC_CLK_TCK")
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return IMPORTED
    return time.time() - uptime + since_boot


def peak_memory() -> float:
    """Returns the largest resident memory of this process so far, in GB (10⁹ bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def random_task(name: str, batch_size: int) -> mlhf.Task:
    """Returns a network of the experiments with random images of CIFAR-10's shape.

    Args:
      name: The network, one of `train_val.problems.image_problems.NETWORKS`.
      batch_size: The number of images per batch.

    Returns:
      The task.
    """
    model = image_problems.NETWORKS[name](IMAGE_SHAPE, CLASSES)
    random = np.random.default_rng(0)
    images = random.standard_normal((8, batch_size, *IMAGE_SHAPE)).astype(np.float32)
    labels = random.integers(CLASSES, size=(8, batch_size)).astype(np.int32)

    def batches(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            yield images[start % 8], labels[start % 8]
            start += 1

    return mlhf.Task(
        model,
        "softmax_cross_entropy",
        lambda seed: mlhf.get_parameters(model),
        batches,
        name=f"{name} on random images",
    )


def time_meta_steps(
    task: mlhf.Task, optimizer: mlhf.MetaHessianFree, roll_back: int, repeats: int
) -> dict[str, Any]:
    """Meta-trains for `repeats` + 1 steps.

    Args:
      task: The network and its batches.
      optimizer: The optimizer to meta-train.
      roll_back: The number T of training steps per meta-step.
      repeats: The number of timed meta-steps.

    Returns:
      `seconds_to_first_meta_step` since the process started, `seconds_of_meta_steps` for the later
      meta-steps, their median `seconds_a_meta_step`, and `peak_memory_gb`.
    """
    ends: list[float] = []
    mlhf.meta_train(
        task,
        optimizer,
        1 + repeats,
        roll_back=roll_back,
        keep_prob=KEEP_PROB,
        on_step=lambda step, metrics: ends.append(time.time()),
    )
    seconds = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    return {
        "seconds_to_first_meta_step": ends[0] - process_start(),
        "seconds_of_meta_steps": seconds,
        "seconds_a_meta_step": statistics.median(seconds),
        "peak_memory_gb": peak_memory(),
    }


def time_pieces(
    task: mlhf.Task, optimizer: mlhf.MetaHessianFree, roll_back: int, repeats: int
) -> dict[str, Piece]:
    """Times the pieces of a meta-step, each compiled by itself; medians over all repeats.

    The functions run in turn, so that other load affects all of them alike. A product and a
    forward pass can't be timed alone: their times follow from functions with one and with several
    products.

    Args:
      task: The network and its batches.
      optimizer: An optimizer with `x_use="x"` and both LSTMs, the default.
      roll_back: The number T of training steps per meta-step.
      repeats: The number of runs of each function.

    Returns:
      The pieces by name.
    """
    n = optimizer.rule.cg_iterations
    functions = _functions(task, optimizer)
    for function in functions.values():
        function()
    rounds = [
        {name: _seconds(function) for name, function in functions.items()} for _ in range(repeats)
    ]

    def median(of: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(of(seconds) for seconds in rounds)

    def product_in(seconds: dict[str, float]) -> float:
        return (seconds["forward, products"] - seconds["forward, product"]) / n

    product = median(product_in)
    forward = median(lambda s: s["forward, product"] - product_in(s))
    gradient = median(lambda s: s["forward, gradient"] - s["forward, product"] + product_in(s))
    # A step linearizes at w_t and at w_{t+1}; its backward pass again at w_t, if a product needs
    # it.
    forwards = 3 if n > 1 else 2
    # A x₀ and one product per iteration; backward, for two cotangents, one per iteration but the
    # last.
    products = 1 + n + 2 * (n - 1)
    return {
        "forward pass": Piece("network", forward, forwards * roll_back),
        "gradient": Piece("network", gradient, 2 * roll_back),
        "product": Piece("curvature products", product, products * roll_back),
        "LSTM of P, forward": Piece("LSTMs", median(lambda s: s["lstm y"]), roll_back),
        "LSTM of δ, forward": Piece("LSTMs", median(lambda s: s["lstm d"]), roll_back),
        "LSTM of P, backward": Piece("LSTMs", median(lambda s: s["lstm y back"]), roll_back),
        "LSTM of δ, backward": Piece("LSTMs", median(lambda s: s["lstm d back"]), roll_back),
        "iterations, forward": Piece("conjugate gradients", median(lambda s: s["cg"]), roll_back),
        "iterations, backward": Piece(
            "conjugate gradients", median(lambda s: s["cg back"]), 2 * roll_back
        ),
    }


def _seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    # A GPU may still be busy when a function returns.
    tf.test.experimental.sync_devices()
    return time.perf_counter() - began


def _functions(task: mlhf.Task, optimizer: mlhf.MetaHessianFree) -> dict[str, Callable[[], Any]]:
    """Returns the functions to time."""
    n = optimizer.rule.cg_iterations
    parameters = task.initialize(0)
    state = optimizer.init(parameters, task.variable_kinds())
    layout = optimizer.layout(parameters)
    weights = optimizer.weights_for(layout)
    inputs, targets = next(iter(task.batches(0)))
    objective = task.objective(inputs, targets)
    w = layout.flatten(parameters)
    random = np.random.default_rng(0)

    def vector(draw: Any) -> tf.Tensor:
        return tf.constant(draw, layout.dtype) * layout.mask()

    v = vector(random.standard_normal(layout.size))
    # A diagonal that conjugate gradients cannot solve in a few iterations.
    delta = vector(random.uniform(0.5, 1.5, layout.size))
    ones = tf.ones([layout.size], layout.dtype)
    blocks = layout.to_blocks(v)

    def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        function = tf.function(function, autograph=False)
        return lambda: function(*arguments)

    def gradient(w: tf.Tensor) -> tf.Tensor:
        return layout.flatten(objective.linearize(layout.unflatten(w)).gradient())

    def products(count: int) -> Callable[..., tf.Tensor]:
        def function(w: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
            linearized = objective.linearize(layout.unflatten(w), optimizer.rule.product_dtype)
            curvature = curvature_shares.curvature_of(linearized, layout)
            u = v
            for _ in range(count):
                u = v + curvature(u)
            return u

        return function

    def solve(delta: tf.Tensor, v: tf.Tensor) -> Any:
        return recorded_cg.solve_recorded(lambda u: delta * u, v, tf.zeros_like(v), ones, n)

    _, trajectory = tf.function(solve, autograph=False)(delta, v)

    def solve_back(delta: tf.Tensor, v: tf.Tensor, trajectory: Any) -> Any:
        return recorded_cg.solution_vjp(lambda u: delta * u, ones, trajectory, v)

    def lstm(role: str) -> Callable[[], Any]:
        def function(weights: Any, blocks: tf.Tensor, lanes: Any) -> Any:
            return coordinate_lstm.apply(weights, layout.kind_of_block, [blocks] * 3, lanes)

        return compiled(function, weights[role], blocks, state.lstm[role])

    def lstm_back(role: str, wants: list[tuple[bool, tuple[int, ...]]]) -> Callable[[], Any]:
        def function(weights: Any, blocks: tf.Tensor, lanes: Any) -> Any:
            cotangents = [Cotangent(blocks, lanes, *want) for want in wants]
            return coordinate_lstm.vjp(
                weights, layout.kind_of_block, [blocks] * 3, lanes, cotangents
            )

        return compiled(function, weights[role], blocks, state.lstm[role])

    return {
        "forward, gradient": compiled(gradient, w),
        "forward, product": compiled(products(1), w, v),
        "forward, products": compiled(products(1 + n), w, v),
        "lstm y": lstm("y"),
        "lstm d": lstm("d"),
        # The cotangent of h reaches the weights; that of the meta loss is passed on to r₀.
        "lstm y back": lstm_back("y", [(True, ()), (False, (1,))]),
        "lstm d back": lstm_back("d", [(True, ())]),
        "cg": compiled(solve, delta, v),
        "cg back": compiled(solve_back, delta, v, trajectory),
    }


def shares(pieces: dict[str, Piece], seconds_a_meta_step: float) -> dict[str, float]:
    """Returns the share of each group, and of the rest, in a meta-step."""
    found: dict[str, float] = {}
    for piece in pieces.values():
        share = piece.seconds * piece.times / seconds_a_meta_step
        found[piece.group] = found.get(piece.group, 0.0) + share
    return {**found, "rest": 1 - sum(found.values())}


def report(result: dict[str, Any]) -> str:
    """Returns the figures as a text."""
    lines = [
        f"{result['task']}, {result['parameters']:,} parameters, T {result['roll_back']}, "
        f"CG {result['cg_iterations']}, products in {result['product_dtype']}, "
        f"{result['cores']} cores, {result['device']}",
        f"first meta-step {result['seconds_to_first_meta_step']:.1f} s after the process started",
        f"a meta-step {result['seconds_a_meta_step']:.2f} s (median of "
        f"{len(result['seconds_of_meta_steps'])})",
        f"peak memory {result['peak_memory_gb']:.2f} GB",
        "",
        f"{'piece':<24}{'ms':>10}{'times':>8}{'s':>9}",
    ]
    for name, piece in result["pieces"].items():
        total = piece["seconds"] * piece["times"]
        lines.append(f"{name:<24}{1e3 * piece['seconds']:10.1f}{piece['times']:8}{total:9.2f}")
    lines += ["", *[f"{name:<24}{share:10.1%}" for name, share in result["shares"].items()]]
    return "\n".join(lines)


def measure() -> dict[str, Any]:
    """Runs the benchmark that the flags describe and returns its figures."""
    if FLAGS.data_dir:
        task = image_problems.make(
            FLAGS.problem, data_dir=FLAGS.data_dir, part="meta_train", batch_size=FLAGS.batch_size
        ).task
    else:
        task = random_task(FLAGS.problem, FLAGS.batch_size)
    optimizer = mlhf.MetaHessianFree(
        cg_iterations=FLAGS.cg_iterations, product_dtype=FLAGS.product_dtype
    )
    meta_steps = time_meta_steps(task, optimizer, FLAGS.roll_back, FLAGS.repeats)
    pieces = time_pieces(task, optimizer, FLAGS.roll_back, FLAGS.piece_repeats)
    accelerators = [device.device_type for device in tf.config.list_physical_devices()]
    return {
        "task": f"{task.name}, batches of {FLAGS.batch_size}",
        "parameters": sum(int(tf.size(leaf)) for leaf in tf.nest.flatten(task.initialize(0))),
        "batch_size": FLAGS.batch_size,
        "roll_back": FLAGS.roll_back,
        "cg_iterations": FLAGS.cg_iterations,
        "product_dtype": FLAGS.product_dtype or "float32",
        "cores": os.cpu_count(),
        "device": "GPU" if "GPU" in accelerators else "CPU",
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        **meta_steps,
        "pieces": {name: piece._asdict() for name, piece in pieces.items()},
        "shares": shares(pieces, meta_steps["seconds_a_meta_step"]),
    }


def main(argv: list[str]) -> None:
    """Measures, prints, and writes the figures."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {' '.join(argv[1:])}.")
    result = measure()
    print(report(result))
    if FLAGS.output:
        Path(FLAGS.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_enum("problem", "convnet", sorted(image_problems.NETWORKS), "The network.")
    flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
    flags.DEFINE_integer("roll_back", 10, "Training steps per meta-step, T.", lower_bound=1)
    flags.DEFINE_integer("cg_iterations", 4, "Conjugate-gradient iterations.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Meta-steps timed after the first.", lower_bound=1)
    flags.DEFINE_integer("piece_repeats", 9, "Runs of each piece.", lower_bound=1)
    flags.DEFINE_enum(
        "product_dtype", None, ("bfloat16",), "Dtype of curvature products; default float32."
    )
    flags.DEFINE_string("data_dir", None, "CIFAR-10's folder; random images if left out.")
    flags.DEFINE_string("output", None, "A JSON file to write the figures to.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
