"""Measures the memory that recomputation saves: `python benchmarks/checkpoint_memory.py`.

The gradient of a network of blocks, each several dense layers of equal width; with everything
stored, as TensorFlow does, and with each block in `custom_op.checkpoint`. Each runs in its own
process. Memory is the peak of the process minus its peak before the first gradient, in MB; seconds
are the median over the gradients after the first.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

WIDTH, BATCH, BLOCKS, LAYERS, REPEATS = 256, 8192, 8, 6, 5


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(recompute: bool) -> dict[str, float]:
    """Returns the peak memory in MB, the seconds per gradient and the gradient's length."""
    import tensorflow as tf

    import custom_op

    generator = tf.random.Generator.from_seed(0)
    weights = [generator.normal([WIDTH, WIDTH]) / WIDTH**0.5 for _ in range(BLOCKS * LAYERS)]
    inputs = generator.normal([BATCH, WIDTH])

    def block(h: tf.Tensor, layers: list[tf.Tensor]) -> tf.Tensor:
        for w in layers:
            h = tf.tanh(h @ w)
        return h

    step = custom_op.checkpoint(block) if recompute else block

    @tf.function(autograph=False)
    def gradient(weights: list[tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            h = inputs
            for i in range(BLOCKS):
                h = step(h, weights[i * LAYERS : (i + 1) * LAYERS])
            value = tf.reduce_mean(h**2)
        return tape.gradient(value, weights)

    gradient.get_concrete_function(weights)
    before = _peak()
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        slopes = gradient(weights)
        length = float(tf.linalg.global_norm(slopes))
        seconds.append(time.perf_counter() - start)
    return {
        "megabytes": _peak() - before,
        "seconds": statistics.median(seconds[1:]),
        "gradient_length": length,
    }


def main() -> None:
    """Prints both rows of the table and their ratios."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1] == "recomputed")))
        return
    rows = {}
    for name in ("stored", "recomputed"):
        output = subprocess.run(
            [sys.executable, __file__, name], check=True, capture_output=True, text=True
        ).stdout
        rows[name] = json.loads(output.splitlines()[-1])
    print(f"{BLOCKS} blocks of {LAYERS} dense layers, width {WIDTH}, batch {BATCH}, float32")
    print(f"{'':12}{'MB':>8}{'seconds':>10}{'length of the gradient':>26}")
    for name, row in rows.items():
        print(
            f"{name:12}{row['megabytes']:8.0f}{row['seconds']:10.3f}{row['gradient_length']:26.8g}"
        )
    memory, seconds = (
        rows["recomputed"][key] / rows["stored"][key] for key in ("megabytes", "seconds")
    )
    print(f"{'ratio':12}{memory:8.2f}{seconds:10.2f}")


if __name__ == "__main__":
    main()
