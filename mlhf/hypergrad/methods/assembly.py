"""Assembles a pass's contributions into hypergradients by name, over several outer losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mlhf.hypergrad.dynamics.base import State
from mlhf.hypergrad.problem import OUTER
from mlhf.hypergrad.training import Training


def keep_of(training: Training, per_step: bool | None) -> list[bool]:
    """Returns for each leaf of the hyperparameters whether its contributions are kept by step.

    Args:
      training: The training with the hyperparameters.
      per_step: True for all of them, False for schedules only, None for those of one number.
    """
    if per_step is None:
        return [shape.num_elements() == 1 for shape in training.resolver.leaf_shapes]
    return [bool(per_step)] * len(training.resolver.leaf_shapes)


def hypergradient(training: Training, terms: Sequence[Sequence[Sequence[tf.Tensor]]]) -> Any:
    """Adds terms and aggregates the outer losses that each hyperparameter follows.

    Args:
      training: The training with the hyperparameters.
      terms: For each term, a list by outer loss in sorted order, with a tensor for each leaf.

    Returns:
      The hypergradient by name.
    """
    problem, resolver = training.problem, training.resolver
    losses = list(problem.outer_losses)
    totals = [
        [tf.add_n([term[k][i] for term in terms]) for i in range(len(resolver.leaf_names))]
        for k in range(len(losses))
    ]
    leaves = []
    for i, owner in enumerate(resolver.leaf_owner):
        followed = {
            loss: totals[k][i] for k, loss in enumerate(losses) if loss in problem.followed(owner)
        }
        leaves.append(problem.aggregate(followed))
    return resolver.pack(leaves)


def through_steps(training: Training, sums: Any, by_step: Any) -> list[list[tf.Tensor]]:
    """Returns the contributions of the steps: rows for schedules, sums for all others."""
    return [
        [
            rows if scheduled else total
            for total, rows, scheduled in zip(
                totals, all_rows, training.resolver.scheduled, strict=True
            )
        ]
        for totals, all_rows in zip(sums, by_step, strict=True)
    ]


def per_step(training: Training, by_step: Any, keep: Sequence[bool]) -> dict[str, Any]:
    """Returns the kept contributions by name, aggregated over the outer losses."""
    resolver = training.resolver
    kept = {
        owner
        for owner, k, scheduled in zip(resolver.leaf_owner, keep, resolver.scheduled, strict=True)
        if k or scheduled
    }
    return {
        name: value for name, value in hypergradient(training, [by_step]).items() if name in kept
    }


def valid_loss(values: dict[str, tf.Tensor]) -> Any:
    """Returns the values of the outer losses: by name, or alone if the user passed only one."""
    return values[OUTER] if list(values) == [OUTER] else values


def public_state(training: Training, state: State) -> dict[str, Any]:
    """Returns a state with structures like the weights instead of flat vectors."""
    return {
        name: training.flat.unflatten(slot) if slot.shape == [training.flat.size] else slot
        for name, slot in state.items()
    }
