"""Training that runs backwards, on two weights: in floats it does not come back, in bits it does.

The toy of Maclaurin et al. 2015, figures 1 and 2: the loss 800 · logistic(r / 500) with r a
Rosenbrock function on a slope, from (1.4, 3.9). Momentum runs forward and then backward by the
same steps: in float16, float32 and float64 by arithmetic alone, and in fixed point with an
information buffer. Then schedules of learning rate and momentum are learned from the final loss,
and every training is drawn on the surface.

    python train_val/experiments/toy.py
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    experiment_flags.begin("toy", __doc__)

import math
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.exact_arithmetic.factors import Factors
from mlhf.hypergrad.exact_arithmetic.fixed_point import to_float
from mlhf.hypergrad.exact_arithmetic.fixed_point_momentum import FixedPointMomentum
from train_val.cli.flags import experiment_flags
from train_val.experiments import reporting

FLAGS = flags.FLAGS
START = (1.4, 3.9)
DTYPES = ("float16", "float32", "float64")
# The settings of the first two pictures, and of the third.
BACKWARD: dict[str, Any] = {"steps": 46, "rate": math.exp(-5.5), "momentum": 0.8}
LEARNED = {"steps": 50, "log_rate": -4.5, "logit_momentum": math.log(0.99 / 0.01)}


def loss(w: tf.Tensor) -> tf.Tensor:
    """Returns the loss of weights [..., 2], in their dtype."""
    x, y = w[..., 0], w[..., 1]
    r = 100 * (y - x * x) ** 2 + (1 - x) ** 2 + 200 * x
    return 800 * tf.sigmoid(r / 500)


@tf.function
def _gradient(w: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = loss(w)
    return tape.gradient(value, w)


def gradient(w: np.ndarray) -> np.ndarray:
    """Returns the gradient in float64, rounded to the dtype of w."""
    return _gradient(tf.constant(w, tf.float64)).numpy().astype(w.dtype)


def there_and_back(
    dtype: str, steps: int, rate: float, momentum: float
) -> tuple[np.ndarray, np.ndarray]:
    """Trains in floats and takes every step back by arithmetic.

    Args:
      dtype: The dtype that weights and velocities are rounded to after each step.
      steps: The number of steps, T.
      rate: The learning rate of M1.
      momentum: The momentum of M1.

    Returns:
      The weights before every step and at the end, on the way forward and on the way back, both
      [T + 1, 2] in the order of time.
    """
    a, mu = np.dtype(dtype).type(rate), np.dtype(dtype).type(momentum)
    w = np.array(START, dtype)
    v, forward = np.zeros_like(w), [np.array(START, dtype)]
    for _ in range(steps):
        v = mu * v - (1 - mu) * gradient(w)
        w = w + a * v
        forward.append(w)
    back = [w]
    for _ in range(steps):
        w = w - a * v
        v = (v + (1 - mu) * gradient(w)) / mu
        back.append(w)
    return np.array(forward), np.array(back[::-1])


def there_and_back_exactly(
    steps: int, rate: float, momentum: float
) -> tuple[np.ndarray, np.ndarray, bool, float]:
    """Trains in fixed point, and takes every step back through the information buffer.

    Args:
      steps: The number of steps, T.
      rate: The learning rate of M1.
      momentum: The momentum of M1.

    Returns:
      The two paths of `there_and_back`; then whether it is back at its first bits with nothing in
      the buffer, and the number of bits per weight in the buffer at the end of training.
    """
    problem = hypergrad.Problem(
        lambda w, hyper, step: loss(w),
        lambda w, hyper: loss(w),
        dynamics=hypergrad.Momentum(rate, momentum, form="M1"),
        steps=steps,
    )
    training, start, hyper = bind(problem, tf.constant(START, tf.float64), {"learning_rate": rate})
    run = FixedPointMomentum("M1", Factors(training, hyper), start.numpy(), np.zeros(2))
    forward = [to_float(run.weights)]
    for step in range(steps):
        run.forward(step, gradient(to_float(run.weights)))
        forward.append(to_float(run.weights))
    bits, back = run.bits, [to_float(run.weights)]
    for step in reversed(range(steps)):
        run.undo_move(step)
        back.append(to_float(run.weights))
        run.undo_push(step, gradient(to_float(run.weights)))
    return np.array(forward), np.array(back[::-1]), run.is_back, bits


def learn(
    iterations: int = 3, rate: float = 0.01, mass: float = 0.9, **learned: Any
) -> dict[Any, Any]:
    """Learns schedules of learning rate and momentum by descent with momentum (M1).

    Args:
      iterations: Steps on the schedules.
      rate: The learning rate of the descent.
      mass: The momentum of the descent.
      **learned: Settings that replace those in `LEARNED`.

    Returns:
      `loss`, before and after every step; `paths`, the weights of each training, [T + 1][2]; and
      the last `learning_rate` and `momentum`, [T].
    """
    setting = LEARNED | learned
    steps = setting["steps"]
    problem = hypergrad.Problem(
        lambda w, hyper, step: loss(w),
        lambda w, hyper: loss(w),
        dynamics=hypergrad.Momentum(form="M1"),
        steps=steps,
    )
    start = tf.constant(START, tf.float64)
    log_rate = np.full(steps, setting["log_rate"])
    logit = np.full(steps, setting["logit_momentum"])
    velocity = np.zeros([2, steps])
    curves: dict[Any, Any] = {"loss": [], "paths": []}
    for _ in range(iterations + 1):
        a, mu = np.exp(log_rate), 1 / (1 + np.exp(-logit))
        result = hypergrad.reversible(problem, start, {"learning_rate": a, "momentum": mu})
        curves["loss"].append(float(result.valid_loss))
        curves["paths"].append(_path(a, mu))
        slopes = result.hypergradient
        slope = np.stack([a * slopes["learning_rate"], mu * (1 - mu) * slopes["momentum"]])
        velocity = mass * velocity - (1 - mass) * slope
        log_rate, logit = log_rate + rate * velocity[0], logit + rate * velocity[1]
    return curves | {"learning_rate": a.tolist(), "momentum": mu.tolist()}


def _path(rates: np.ndarray, momenta: np.ndarray) -> list[list[float]]:
    w, v = np.array(START), np.zeros(2)
    path = [w]
    for a, mu in zip(rates, momenta, strict=True):
        v = mu * v - (1 - mu) * gradient(w)
        w = w + a * v
        path.append(w)
    return np.array(path).tolist()


def run() -> dict[Any, Any]:
    """Returns the paths in all arithmetics, their distances from the start, and the schedules."""
    ways = {name: there_and_back(name, **BACKWARD) for name in DTYPES}
    forward, back, is_back, bits = there_and_back_exactly(**BACKWARD)
    ways["fixed point"] = forward, back
    return {
        "ways": {name: [path.tolist() for path in pair] for name, pair in ways.items()},
        "distance": {
            name: float(np.linalg.norm(back[0].astype(np.float64) - forward[0]))
            for name, (forward, back) in ways.items()
        },
        "is_back": is_back,
        "bits": bits,
        "learned": learn(),
    }


def as_markdown(found: dict[Any, Any]) -> str:
    """Returns the table of distances and the losses of the learned schedules."""
    lines = ["| arithmetic | distance from the start after the way back |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in found["distance"].items()]
    losses = ", ".join(f"{value:.2f}" for value in found["learned"]["loss"])
    lines += [
        "",
        f"Fixed point: the same bits: {found['is_back']}; {found['bits']:.1f} bits a weight kept.",
        f"Final losses while the schedules are learned: {losses}.",
    ]
    return "\n".join(lines)


def _surface(axis: Any) -> None:
    x, y = np.meshgrid(np.linspace(-1, 2.4, 100), np.linspace(-1, 5, 100))
    z = loss(tf.constant(np.stack([x, y], -1))).numpy()
    axis.contour(x, y, z, 14, colors="0.8", linewidths=0.6)
    axis.plot(*START, "k*", markersize=11, zorder=5)
    axis.set(xlabel="weight 1", ylabel="weight 2", xlim=(-1, 2.4), ylim=(-1, 5))


def draw(found: dict[Any, Any], path: Path) -> None:
    """Draws the way forward and both ways back, and the trainings of the learned schedules."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for axis, name in zip(axes, ("float16", "fixed point"), strict=False):
        forward, back = map(np.array, found["ways"][name])
        _surface(axis)
        axis.plot(*forward.T, "o-", color="tab:red", markersize=4, label="forward")
        axis.plot(*back.T, ".-", color="tab:blue", markersize=3, linewidth=1, label="back")
        axis.set_title(f"{name}: ends {found['distance'][name]:.2g} from the start")
        axis.legend(fontsize=7)
    _surface(axes[2])
    pairs = zip(found["learned"]["paths"], found["learned"]["loss"], strict=True)
    for i, (steps, value) in enumerate(pairs):
        axes[2].plot(*np.array(steps).T, ".-", markersize=3, linewidth=1, label=f"{i}: {value:.1f}")
    axes[2].set_title("training, after steps on its schedules")
    axes[2].legend(fontsize=7, title="step: final loss", title_fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=75)
    plt.close(figure)


def main() -> None:
    """Runs, prints and draws."""
    found, folder = run(), reporting.folder(FLAGS.output)
    reporting.save(folder / "toy.json", {0: found})
    text = as_markdown(found)
    (folder / "toy.md").write_text(text + "\n")
    print(text)
    draw(found, folder / "toy.png")


define_flags = experiment_flags.definer("toy")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
