"""The two tuning examples of RGD-NN, with the right gradients beside those that it uses.

RGD-NN runs momentum (M1) backwards to compute gradients of a learning rate and a momentum for each
variable, and learns the rates of two linear networks from them:

  one neuron  y = x/2 + noise, 1-1, rates 0.9, momenta 0.5, and 10⁹ times its gradient
  two layers  y = x² + noise, 1-4-1, rates 0.2, momenta 0.8, and twice its gradient

1,024 examples with noise of 0.05 in 32 batches, two epochs, and the mean square over all examples
at the end. Its backward pass differs from the gradient in four places, each of which is restored
alone here:

  outer    H u is made by an outer product: (Σ u) H 1
  blocks   with the Hessian of one variable at a time
  last     the sum over steps is overwritten: what is left is the first step's part
  start    it starts from the last batch's gradient one step before the end, not from the loss's

    python train_val/experiments/rgd_nn.py --seeds=0,1,2
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import experiment_flags

    experiment_flags.begin("rgd_nn", __doc__)

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from mlhf import hypergrad
from train_val.cli.flags import experiment_flags
from train_val.experiments import mnist_slices, reporting

FLAGS = flags.FLAGS
BATCH, EPOCHS, NOISE = 32, 2, 0.05
DEFECTS = ("outer", "blocks", "last", "start")
COURSES = ("RGD-NN's gradient, rates", "right gradient, rates", "right gradient, rates and momenta")


class Example(NamedTuple):
    """A tuning example of RGD-NN."""

    target: Callable[[np.ndarray], np.ndarray]
    sizes: tuple[int, ...]
    rate: float
    momentum: float
    outer_rate: float  # theirs


EXAMPLES = {
    "one neuron": Example(lambda x: x / 2, (1, 1), 0.9, 0.5, 1e9),
    "two layers": Example(lambda x: x**2, (1, 4, 1), 0.2, 0.8, 2.0),
}


class Setting:
    """An example with its data and first weights."""

    def __init__(self, example: Example, seed: int, count: int = 1024) -> None:
        """Draws data and weights.

        Args:
          example: An entry of `EXAMPLES`.
          seed: The seed of everything that is drawn.
          count: The number of training examples; as many others are only measured on.
        """
        random = np.random.default_rng(seed)
        x = random.uniform(-1, 1, (2 * count, 1))
        y = example.target(x) + random.normal(0, NOISE, x.shape)
        self.example, self.steps = example, EPOCHS * count // BATCH
        self.train, self.test = (x[:count], y[:count]), (x[count:], y[count:])
        self.batches = hypergrad.Minibatches(self.train, BATCH, self.steps, shuffle=False)
        self.weights = []
        for shape in mnist_slices.shapes_of(example.sizes):
            limit = np.sqrt(6 / sum(shape)) if len(shape) == 2 else 0.0
            self.weights.append(tf.constant(random.uniform(-limit, limit, shape)))
        values = np.ones(len(self.weights))
        self.start = {
            "learning_rate": tf.constant(example.rate * values),
            "momentum": tf.constant(example.momentum * values),
        }
        self.problem = hypergrad.Problem(
            lambda weights, hyper, step, batch: mean_square(weights, *batch),
            lambda weights, hyper: mean_square(weights, *self.train),
            dynamics=hypergrad.Momentum(form="M1"),
            steps=self.steps,
            batches=self.batches,
        )
        self._derivatives = tf.function(self._derive, autograph=False)

    def floor(self, data: Any) -> float:
        """Returns the loss of the best line, which no rate gets below on `train`."""
        x, y = self.train
        line = np.linalg.lstsq(np.hstack([x, np.ones_like(x)]), y, rcond=None)[0]
        x, y = data
        return float(np.mean((np.hstack([x, np.ones_like(x)]) @ line - y) ** 2))

    def right(self, hyper: dict[str, Any]) -> hypergrad.Result:
        """Returns the exact hypergradient, by reversible momentum."""
        return hypergrad.reversible(self.problem, self.weights, hyper, per_step=False)

    def by_hand(self, hyper: dict[str, Any], defects: Collection[str]) -> dict[str, np.ndarray]:
        """Returns the gradients of a backward pass with some of RGD-NN's defects.

        Args:
          hyper: A rate and a momentum for each variable.
          defects: Names in `DEFECTS`; without any the gradient is right.

        Returns:
          The gradients in `learning_rate` and `momentum`, a number for each variable, and in the
          initial `weights`, flat.
        """
        sizes = [leaf.shape.num_elements() for leaf in self.weights]
        rate, momentum = (np.repeat(hyper[name], sizes) for name in ("learning_rate", "momentum"))
        block = np.repeat(np.arange(len(sizes)), sizes)
        path = [(self._flat(), np.zeros(len(block)))]
        derivatives = []
        for step in range(self.steps):
            w, v = path[-1]
            gradient, hessian = self._at(w, self.batches(step))
            derivatives.append((gradient, hessian))
            v = momentum * v - (1 - momentum) * gradient
            path.append((w + rate * v, v))
        dw = derivatives[-1][0] if "start" in defects else self._at(path[-1][0], self.train)[0]
        dv = np.zeros_like(dw)
        found: dict[str, np.ndarray] = {
            "learning_rate": np.zeros(len(sizes)),
            "momentum": np.zeros(len(sizes)),
        }

        def add(name: str, part: np.ndarray) -> None:
            before = 0.0 if "last" in defects else found[name]
            found[name] = before + np.bincount(block, part)

        for step in reversed(range(self.steps)):
            gradient, hessian = derivatives[step]
            add("learning_rate", dw * path[step + 1][1])
            dv = dv + rate * dw
            add("momentum", dv * (path[step][1] + gradient))
            u = (1 - momentum) * dv
            if "blocks" in defects:
                hessian = hessian * (block[:, None] == block)
            if "outer" in defects:
                u = (
                    np.bincount(block, u)[block]
                    if "blocks" in defects
                    else np.full_like(u, u.sum())
                )
            dw = dw - hessian @ u
            dv = momentum * dv
        return found | {"weights": dw}

    def loss(self, hyper: dict[str, Any]) -> tuple[float, float]:
        """Returns the loss over all training examples and over fresh ones, after training."""
        result = hypergrad.train(self.problem, self.weights, hyper)
        return float(result.valid_loss), float(mean_square(result.weights, *self.test))

    def _flat(self) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in self.weights])

    def _at(self, vector: np.ndarray, data: Any) -> tuple[np.ndarray, np.ndarray]:
        gradient, hessian = self._derivatives(tf.constant(vector), *map(tf.constant, data))
        return gradient.numpy(), hessian.numpy()

    def _derive(self, vector: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as outer:
            outer.watch(vector)
            with tf.GradientTape() as inner:
                inner.watch(vector)
                parts = tf.split(vector, [leaf.shape.num_elements() for leaf in self.weights])
                pairs = zip(parts, self.weights, strict=True)
                loss = mean_square([tf.reshape(part, leaf.shape) for part, leaf in pairs], x, y)
            gradient = inner.gradient(loss, vector)
        return gradient, outer.jacobian(gradient, vector)


def mean_square(weights: Any, x: Any, y: Any) -> tf.Tensor:
    """Returns the mean square error of linear layers, weights [W_1, b_1, W_2, ...]."""
    for i in range(0, len(weights), 2):
        x = x @ weights[i] + weights[i + 1]
    return tf.reduce_mean((x - y) ** 2)


def compare(setting: Setting) -> dict[str, dict[str, list[float]]]:
    """Returns the first gradients: the right ones, RGD-NN's, and those of each defect alone."""
    right = setting.right(setting.start).hypergradient
    found = {"right": {name: right[name].numpy().tolist() for name in setting.start}}
    cases = {"as RGD-NN": DEFECTS, **{f"{defect} alone": (defect,) for defect in DEFECTS}}
    for name, defects in cases.items():
        gradient = setting.by_hand(setting.start, defects)
        found[name] = {key: gradient[key].tolist() for key in setting.start}
    return found


def tune_as_rgd_nn(setting: Setting, iterations: int) -> dict[str, list[Any]]:
    """Moves the rates as RGD-NN does: its gradient, times its outer rate; momenta stay."""
    hyper, losses = dict(setting.start), [setting.loss(setting.start)]
    for _ in range(iterations):
        wrong = setting.by_hand(hyper, DEFECTS)["learning_rate"]
        moved = hyper["learning_rate"] - setting.example.outer_rate * wrong
        # RGD-NN has no guard; a rate below 0 would climb.
        if not np.all(moved > 0):
            break
        hyper = {**hyper, "learning_rate": moved}
        losses.append(setting.loss(hyper))
    return as_curves(setting, losses, hyper)


def tune(
    setting: Setting, names: Collection[str], iterations: int, rate: float
) -> dict[str, list[Any]]:
    """Moves some hyperparameters by Adam along the right gradient."""
    hyper = {name: setting.start[name] for name in names}
    fixed = setting.example
    problem = hypergrad.Problem(
        setting.problem.train_loss,
        setting.problem.outer_losses,
        dynamics=hypergrad.Momentum(fixed.rate, fixed.momentum, form="M1"),
        steps=setting.steps,
        batches=setting.batches,
    )
    outer = hypergrad.HyperOptimizer(
        problem,
        setting.weights,
        hyper,
        method="reversible",
        outer_optimizer=keras.optimizers.Adam(rate),
        options={"per_step": False},
    )
    losses = [setting.loss(setting.start)]

    def steps() -> Iterator[None]:
        while len(losses) <= iterations:
            yield
            losses.append(setting.loss({**setting.start, **outer.hyperparameters}))

    outer.run(steps())
    return as_curves(setting, losses, {**setting.start, **outer.hyperparameters})


def as_curves(
    setting: Setting, losses: Sequence[tuple[float, float]], hyper: dict[str, Any]
) -> dict[str, list[Any]]:
    """Returns the losses minus that of the best line, and the last hyperparameters."""
    train, test = zip(*losses, strict=True)
    return {
        "train_excess": [loss - setting.floor(setting.train) for loss in train],
        "test_excess": [loss - setting.floor(setting.test) for loss in test],
        **{name: np.asarray(value).tolist() for name, value in hyper.items()},
    }


def run(
    name: str, seed: int = 0, iterations: int = 100, rate: float = 0.02, **options: Any
) -> dict[Any, Any]:
    """Compares first gradients and tunes an example.

    Args:
      name: A name in `EXAMPLES`.
      seed: The seed of data and initial weights.
      iterations: Steps on the hyperparameters.
      rate: Adam's learning rate, along the right gradients.
      **options: Arguments of `Setting`.

    Returns:
      `floor`, the loss of the best line; `gradients`, the results of `compare`; and the results of
      tuning by the names in `COURSES`.
    """
    setting = Setting(EXAMPLES[name], seed, **options)
    return {
        "floor": setting.floor(setting.train),
        "gradients": compare(setting),
        COURSES[0]: tune_as_rgd_nn(setting, iterations),
        COURSES[1]: tune(setting, ["learning_rate"], iterations, rate),
        COURSES[2]: tune(setting, list(setting.start), iterations, rate),
    }


def against_right(run: dict[Any, Any], name: str) -> tuple[float, float]:
    """Returns the size of a gradient in the rates divided by the right one's, and their cosine."""
    right, found = (np.array(run["gradients"][key]["learning_rate"]) for key in ("right", name))
    sizes = np.linalg.norm(found), np.linalg.norm(right)
    return float(sizes[0] / sizes[1]), float(found @ right / (sizes[0] * sizes[1]))


def as_markdown(runs: dict[Any, Any]) -> str:
    """Returns, for each example, a table of gradients and one of courses, over all seeds."""
    lines = []
    for name in EXAMPLES:
        found = [run[name] for run in runs.values()]
        lines += [
            f"\n{name}: gradient in the rates, {len(found)} seeds\n",
            "| gradient | size / right, least | most | cosine, least | most |",
            "|---|---|---|---|---|",
        ]
        for key in found[0]["gradients"]:
            sizes, cosines = zip(*(against_right(run, key) for run in found), strict=True)
            lines.append(
                f"| {key} | {min(sizes):.2g} | {max(sizes):.2g} "
                f"| {min(cosines):.3f} | {max(cosines):.3f} |"
            )
        lines += [
            f"\n{name}: loss above that of the best line ({found[0]['floor']:.5f} with seed "
            f"{next(iter(runs))}), mean of {len(found)} seeds\n",
            "| tuned along | training examples, before | after | fresh examples, before | after |",
            "|---|---|---|---|---|",
        ]
        for key in COURSES:
            cells = [
                f"{np.mean([run[key][which][i] for run in found]):.2e}"
                for which in ("train_excess", "test_excess")
                for i in (0, -1)
            ]
            lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines).strip()


def draw(runs: dict[Any, Any], path: Path) -> None:
    """Draws the courses of all seeds, loss above the best line against steps."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(EXAMPLES), figsize=(9, 3.4))
    for axis, name in zip(axes, EXAMPLES, strict=True):
        for key, color in zip(COURSES, ("tab:red", "tab:blue", "tab:green"), strict=True):
            for i, run in enumerate(runs.values()):
                label = key if i == 0 else None
                axis.semilogy(run[name][key]["train_excess"], color=color, lw=1, label=label)
        axis.set(title=name, xlabel="steps on the hyperparameters")
    axes[0].set_ylabel("loss above the best line")
    axes[0].legend(fontsize=7)
    figure.savefig(path, bbox_inches="tight", dpi=110)
    plt.close(figure)


def main() -> None:
    """Runs all seeds, prints and draws."""
    folder = reporting.folder(FLAGS.output)
    runs = reporting.run_seeds(
        "rgd_nn",
        ["iterations"],
        lambda seed: {name: run(name, seed, FLAGS.iterations) for name in EXAMPLES},
    )
    text = as_markdown(runs)
    (folder / "rgd_nn.md").write_text(text + "\n")
    print(text)
    draw(runs, folder / "rgd_nn.png")


define_flags = experiment_flags.definer("rgd_nn")
check_flags = experiment_flags.check_flags


if __name__ == "__main__":
    running.finish(main)
