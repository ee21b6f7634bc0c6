"""A recurrent network that learns to write, letter by letter, from four of Shakespeare's sonnets.

`python docs/examples/character_rnn.py` takes half a minute and prints what the network writes as
it learns. It has 100 hidden units, is unrolled over 20 letters, reads 8 places of the text at once,
and trains by Adam with a rate of 0.01. The recurrence is a `tf.scan`, a loop in the graph, and
R-forward and its transpose pass through it: the gradient comes from `custom_op.linearize`, and so
does the curvature along the last gradient.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mlhf import custom_op

HIDDEN, UNROLL, BATCH, LEARNING_RATE = 100, 20, 8, 0.01


class Text:
    """A text as integer codes, one code for each distinct letter."""

    def __init__(self, path: Path):
        content = path.read_text(encoding="utf-8")
        self.letters = sorted(set(content))
        self.codes = np.array([self.letters.index(letter) for letter in content], np.int32)

    def windows(self, count: int) -> Iterator[tuple[bool, np.ndarray]]:
        """Yields whether the text starts over, and the codes of [BATCH, UNROLL + 1] letters.

        Each row continues where it ended in the previous window.
        """
        length = len(self.codes) // BATCH
        rows = self.codes[: length * BATCH].reshape(BATCH, length)
        for i in range(count):
            start = i * UNROLL % (length - UNROLL - 1)
            yield start == 0, rows[:, start : start + UNROLL + 1]


def initial(letters: int, seed: int) -> dict[str, np.ndarray]:
    """Returns initial weights: small ones for the inputs, orthogonal ones for the recurrence."""
    random = np.random.default_rng(seed)
    return {
        "in": random.normal(size=(letters, HIDDEN)) * 0.1,
        "recurrent": np.linalg.qr(random.normal(size=(HIDDEN, HIDDEN)))[0],
        "bias": np.zeros(HIDDEN),
        "out": random.normal(size=(HIDDEN, letters)) / HIDDEN**0.5,
        "out_bias": np.zeros(letters),
    }


def states(p: dict[str, tf.Tensor], state: tf.Tensor, letters: tf.Tensor) -> tf.Tensor:
    """Returns the hidden states, [time, batch, hidden], after each of letters [batch, time]."""
    inputs = tf.gather(p["in"], tf.transpose(letters))
    return tf.scan(lambda h, x: tf.tanh(x + h @ p["recurrent"] + p["bias"]), inputs, state)


def loss_and_state(p, state, window):
    """Returns the mean cross entropy of predicting the next letters, and the last state."""
    hidden = states(p, state, window[:, :-1])
    logits = hidden @ p["out"] + p["out_bias"]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.transpose(window[:, 1:]), logits)
    return tf.reduce_mean(losses), tf.stop_gradient(hidden[-1])


def sample(p, text: Text, length: int, random: np.random.Generator) -> str:
    """Returns text that the network writes, letter by letter."""
    weights = {name: np.asarray(value) for name, value in p.items()}
    state, code, written = np.zeros(HIDDEN), int(text.codes[0]), []
    for _ in range(length):
        state = np.tanh(weights["in"][code] + state @ weights["recurrent"] + weights["bias"])
        logits = state @ weights["out"] + weights["out_bias"]
        probabilities = np.exp(logits - logits.max())
        code = int(random.choice(len(text.letters), p=probabilities / probabilities.sum()))
        written.append(text.letters[code])
    return "".join(written)


def run(steps: int, path: Path, seed: int = 0, every: int = 20) -> tuple[list[float], float, str]:
    """Trains; returns the losses, the curvature along the last gradient, and a sample."""
    text = Text(path)
    variables = {
        name: tf.Variable(value, dtype=tf.float32, name=name)
        for name, value in initial(len(text.letters), seed).items()
    }
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(list(variables.values()))
    random = np.random.default_rng(seed)

    @tf.function(autograph=False)
    def step(state, window):
        p = {name: tf.convert_to_tensor(variable) for name, variable in variables.items()}
        linear = custom_op.linearize(
            lambda p: loss_and_state(p, state, window), p, unconnected="zero"
        )
        loss, last = linear.outputs
        gradient = linear.vjp((tf.ones_like(loss), tf.zeros_like(last)))
        optimizer.apply([gradient[name] for name in variables], list(variables.values()))
        return loss, last, gradient

    @tf.function(autograph=False)
    def curvature(state, window, v):
        """Returns <v, G v> / <v, v>, where G is the Gauss-Newton matrix of the loss."""
        p = {name: tf.convert_to_tensor(variable) for name, variable in variables.items()}

        def network(p):
            hidden = states(p, state, window[:, :-1])
            return tf.reshape(hidden @ p["out"] + p["out_bias"], [BATCH * UNROLL, -1])

        targets = tf.reshape(tf.transpose(window[:, 1:]), [-1])
        operator = custom_op.gauss_newton(network, p, "softmax_cross_entropy", targets)
        product = operator.matvec(v)
        dot = [
            tf.reduce_sum(a * b)
            for a, b in zip(tf.nest.flatten(v), tf.nest.flatten(product), strict=True)
        ]
        return tf.add_n(dot) / sum(tf.reduce_sum(leaf**2) for leaf in tf.nest.flatten(v))

    losses, state = [], tf.zeros([BATCH, HIDDEN])
    for i, (fresh, window) in enumerate(text.windows(steps)):
        if fresh:
            state = tf.zeros([BATCH, HIDDEN])
        before = state
        loss, state, gradient = step(state, tf.constant(window))
        losses.append(float(loss))
        if every and (i + 1) % every == 0:
            print(f"{i + 1:5} {losses[-1]:.3f} {sample(variables, text, 60, random)!r}")
    along = float(curvature(before, tf.constant(window), gradient))
    return losses, along, sample(variables, text, 200, random)


def main() -> None:
    """Trains and checks the losses (the last ones only after a full training)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--text", type=Path, default=Path(__file__).with_name("sonnets.txt"))
    arguments = parser.parse_args()
    losses, along, written = run(arguments.steps, arguments.text)
    print(written)
    print(f"curvature along the gradient {along:.3f}")
    # A uniform guess among 50 letters costs ln 50 = 3.9.
    assert 3.5 < losses[0] < 4.3, losses[0]
    assert along > 0, along
    if arguments.steps >= 600:
        assert np.mean(losses[-20:]) < 1.2, losses[-20:]


if __name__ == "__main__":
    main()
