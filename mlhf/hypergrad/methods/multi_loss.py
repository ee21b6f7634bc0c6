"""Several inner problems with the same hyperparameters, such as a representation for many tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mlhf.hypergrad.result import Result


def several(
    method: Callable[..., Result],
    problems: Sequence[Any],
    weights: Sequence[Any],
    hyperparameters: Any,
    *,
    aggregation: str | Callable[[list[Any]], Any] = "mean",
    **options: Any,
) -> Result:
    """Differentiates several trainings and combines their hypergradients into one.

    Args:
      method: A method such as `reverse`.
      problems: The inner problems. One problem with a `seed` may stand for many: repeat it as often
        as `options["seed"]`, a list, has seeds.
      weights: The weights that each problem begins with.
      hyperparameters: The hyperparameters of all problems.
      aggregation: `"mean"`, `"sum"`, or a function of the list of a hyperparameter's gradients.
      **options: Options of the method; a list or tuple has one value per problem.

    Returns:
      A `Result` with aggregated hypergradient and outer loss (the loss by its mean if `aggregation`
      is a function). Its `info["results"]` has the results of the problems.

    Raises:
      ValueError: If there is no problem, or the numbers of problems, weights and options differ.
    """
    count = len(problems)
    if not count or len(weights) != count:
        raise ValueError(
            f"Expected as many weights as problems and at least one, got {len(weights)} for "
            f"{count} problems."
        )
    if not (aggregation in ("mean", "sum") or callable(aggregation)):
        raise ValueError(f'Expected aggregation "mean", "sum" or a function, got {aggregation!r}.')
    for name, value in options.items():
        if isinstance(value, (list, tuple)) and len(value) != count:
            raise ValueError(f"Expected {count} values of {name}=, got {len(value)}.")
    results = [
        method(
            problem,
            first,
            hyperparameters,
            **{
                name: value[i] if isinstance(value, (list, tuple)) else value
                for name, value in options.items()
            },
        )
        for i, (problem, first) in enumerate(zip(problems, weights, strict=True))
    ]

    def total(*values: tf.Tensor) -> tf.Tensor:
        whole = tf.add_n(values)
        return whole if aggregation == "sum" else whole / count

    def of_gradients(*values: tf.Tensor) -> Any:
        return aggregation(list(values)) if callable(aggregation) else total(*values)

    return Result(
        hypergradient=tf.nest.map_structure(of_gradients, *[r.hypergradient for r in results]),
        valid_loss=tf.nest.map_structure(total, *[r.valid_loss for r in results]),
        weights=[r.weights for r in results],
        hyperparameters=results[0].hyperparameters,
        method=results[0].method,
        info={"results": results},
    )
