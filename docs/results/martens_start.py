"""Martens' Hessian-free on digits from several starts: `python docs/results/martens_start.py`.

Prints a table: the training loss after 25, 50 and 100 steps, and the norm of the weights then.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorflow as tf

import mlhf
from mlhf.optimizers import martens_hessian_free
from train_val import task_families

STEPS = (25, 50, 100)
BEST = martens_hessian_free._share_of_last


def whole(last, product, gradient, warm_start):
    """Martens' own rule: `warm_start` times the last solution, whatever it is worth."""
    del last, product
    return tf.cast(warm_start, gradient.dtype)


# What a row is called; the batch size, the rule of the start, and arguments of the optimizer.
ROWS = {
    "0.95 of the last solution": (128, whole, {}),
    "0.95 of it, up to 250 iterations": (128, whole, {"cg_iterations": 250}),
    "0.5 of it": (128, whole, {"warm_start": 0.5}),
    "0.95 of it, λ = 0.1 throughout": (128, whole, {"damping": 0.1, "damping_type": "regular"}),
    "0.95 of it, λ = 0.01 throughout": (128, whole, {"damping": 0.01, "damping_type": "regular"}),
    "0.95 of it, batches of 750": (750, whole, {}),
    "zero": (128, whole, {"warm_start": 0.0}),
    "its best multiple up to 0.95": (128, BEST, {}),
    "its best multiple, up to 250 iterations": (128, BEST, {"cg_iterations": 250}),
}


def run(batch_size, rule, arguments, seed=1):
    """Trains once; returns the losses and the norm of the weights."""
    martens_hessian_free._share_of_last = rule
    problem = task_families.make("mlp:width=32", batch_size=batch_size)
    parameters = problem.task.initialize(seed)
    optimizer = mlhf.MartensHessianFree(**{"cg_iterations": 20, **arguments})
    state, losses = optimizer.init(parameters), []
    for step, batch in zip(range(1, STEPS[-1] + 1), problem.task.batches(0), strict=False):
        taken = optimizer.step(problem.task.objective(*batch), parameters, state)
        parameters, state = taken.parameters, taken.state
        if step in STEPS:
            losses.append(problem.training_loss(parameters))
    return losses, float(tf.linalg.global_norm(tf.nest.flatten(parameters)))


if __name__ == "__main__":
    for name, row in ROWS.items():
        losses, norm = run(*row)
        print("|", " | ".join([name, *[f"{loss:.2g}" for loss in losses], f"{norm:.1f}"]), "|")
