"""The curvature on a batch's first examples, beside the gradient on all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op.flat_form import FlatForm
from mlhf.objective import LinearizedObjective, Objective


def curvature_of(linearized: LinearizedObjective, form: FlatForm) -> Callable[..., Any]:
    """Returns the product G v as a function of flat vectors."""
    return lambda v: form.flatten(linearized.curvature_product(form.unflatten(v)))


def linearize_shares(
    objective: Objective,
    parameters: Any,
    form: FlatForm,
    share: float = 1.0,
    product_dtype: str | None = None,
) -> tuple[LinearizedObjective, Callable[[tf.Tensor], tf.Tensor]]:
    """Linearizes a batch, and its first examples for the curvature.

    Args:
      objective: The objective on the whole batch.
      parameters: The point.
      form: The form of flat vectors.
      share: The share of the batch that the curvature is taken on, above 0 and at most 1.
      product_dtype: The dtype of products, as for `Objective.linearize`.

    Returns:
      The whole objective at the point, and the product G v as a function of flat vectors.
    """
    part = objective.first_examples(share)
    if part is objective:
        whole = objective.linearize(parameters, product_dtype)
        return whole, curvature_of(whole, form)
    return objective.linearize(parameters), curvature_of(
        part.linearize(parameters, product_dtype), form
    )
