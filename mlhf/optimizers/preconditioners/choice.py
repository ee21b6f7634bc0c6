"""What Hessian-free optimizers take as a preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op.flat_form import FlatForm
from custom_op.graphs.batching.over_vectors import on_rows
from mlhf.checks.arguments import check_count
from mlhf.checks.networks import takes
from mlhf.checks.structures import check_like, kind
from mlhf.objective import Objective
from mlhf.optimizers.preconditioners.nystrom import sketch

Vectors = Callable[[tf.Tensor], tf.Tensor]


class NystromPreconditioner:
    """A randomized Nyström preconditioner, made anew at each step (Frangella et al. 2021).

    It knows the largest `rank` curvatures, so that conjugate gradients are left with the rest. Its
    products are made at once, before the first iteration; one that was made a few steps earlier
    would be worse than none.
    """

    def __init__(self, rank: int = 50, seed: int = 0) -> None:
        """Sets the rank.

        Args:
          rank: The number of products, at least 1.
          seed: The seed of the random vectors, the same at each step.

        Raises:
          ValueError: If a number is out of its range.
        """
        self.rank = check_count("rank", rank)
        self.seed = check_count("seed", seed, at_least=0)


def check_preconditioner(preconditioner: Any) -> Any:
    """Returns a preconditioner that an optimizer can use.

    Args:
      preconditioner: None, a `NystromPreconditioner` or a function.

    Raises:
      TypeError: If it is anything else, or the function takes other arguments.
    """
    if preconditioner is None or isinstance(preconditioner, NystromPreconditioner):
        return preconditioner
    given = "objective", "parameters", "damping"
    if not callable(preconditioner) or isinstance(preconditioner, type):
        raise TypeError(
            "Expected a preconditioner: None, an mlhf.NystromPreconditioner(rank), or a function "
            f"({', '.join(given)}) -> (v -> P v), got {kind(preconditioner)}."
        )
    if not takes(preconditioner, *given):
        raise TypeError(
            f"Expected a preconditioner that takes ({', '.join(given)}) and returns a function of "
            f"a structure like the parameters, got {kind(preconditioner)}."
        )
    return preconditioner


def of_vectors(
    preconditioner: Any,
    objective: Objective,
    parameters: Any,
    form: FlatForm,
    curvature: Vectors,
    damping: tf.Tensor,
) -> Vectors | None:
    """Returns a preconditioner as a function of flat vectors; None for none.

    Args:
      preconditioner: None, a `NystromPreconditioner` or a function.
      objective: The objective on the batch.
      parameters: The point.
      form: The form of flat vectors.
      curvature: The product G v.
      damping: λ, a scalar.

    Raises:
      TypeError: If the function of a user does not return a function.
    """
    if preconditioner is None:
        return None
    if isinstance(preconditioner, NystromPreconditioner):
        seed = tf.constant([preconditioner.seed, 0])
        found = sketch(
            lambda rows: on_rows(curvature, rows), form.size, preconditioner.rank, form.dtype, seed
        )
        return found.preconditioner(damping)
    apply = preconditioner(objective, parameters, damping)
    if not callable(apply):
        raise TypeError(f"Expected the preconditioner to return a function, got {kind(apply)}.")
    remedy = "a preconditioner maps a structure like the parameters to another"

    def product(vector: tf.Tensor) -> tf.Tensor:
        structure = form.unflatten(vector)
        leaves = check_like("a preconditioned vector", apply(structure), structure, remedy)
        return form.flatten(tf.nest.pack_sequence_as(structure, leaves))

    return product
