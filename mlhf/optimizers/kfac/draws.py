"""What K-FAC draws at the outputs of a batch: of one loss, or of the losses of several outputs."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from custom_op import losses
from mlhf.objective import Objective
from mlhf.objective.joint_loss import JointLoss
from mlhf.objective.shares import Share
from mlhf.optimizers.kfac import factors


class Drawn(NamedTuple):
    """Tensors u at the outputs with Σ E[u uᵀ] = N H, and what they are means over."""

    gradients: list[tf.Tensor]  # u, in the shape of the outputs
    terms: int | tf.Tensor  # N
    present: tf.Tensor | None  # the terms that targets and mask leave in; None for all
    weights: tf.Tensor | None  # the terms' weights, whose roots are in the gradients
    count: tf.Tensor  # the number of terms that are present


def drawn_at(share: Share, outputs: tf.Tensor, fisher: str, seed: tf.Tensor) -> Drawn:
    """Returns what is drawn at a share's outputs.

    Args:
      share: The share of a batch; its objective says loss, targets, weights and mask.
      outputs: The network's outputs.
      fisher: The kind of G, as for `factors.output_gradients`.
      seed: The seed for drawing, int32 [2].

    Raises:
      ValueError: If a loss has no known distribution of targets, or a negative weight.
    """
    objective: Objective = share.objective
    weights, mask = objective.weights_and_mask()
    if isinstance(objective.loss, JointLoss):
        return _of_parts(share, objective.loss, outputs, weights, mask, fisher, seed)
    loss, targets = objective.loss, objective.targets
    return _of_loss(share, loss, outputs, targets, weights, mask, fisher, seed)


def _of_loss(
    share: Share,
    loss: losses.Loss,
    outputs: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor | None,
    mask: tf.Tensor | None,
    fisher: str,
    seed: tf.Tensor,
) -> Drawn:
    gradients = _as_on_one_device(share, loss, outputs, targets, fisher, seed)
    present = factors.present_terms(loss, outputs, targets)
    weights, mask = (_of_terms(part, loss, outputs) for part in (weights, mask))
    if mask is not None:
        present = mask if present is None else present & mask
        gradients = [factors.times(u, tf.cast(mask, u.dtype)) for u in gradients]
    if weights is not None:
        gradients = [factors.times(u, tf.sqrt(weights)) for u in gradients]
    terms = factors.terms_of(loss, outputs, present)
    count = factors.present_count(outputs, terms, present)
    return Drawn(gradients, terms, present, weights, count)


def _of_parts(
    share: Share,
    joint: JointLoss,
    outputs: tf.Tensor,
    weights: tf.Tensor | None,
    mask: tf.Tensor | None,
    fisher: str,
    seed: tf.Tensor,
) -> Drawn:
    """Returns what is drawn at outputs side by side, Σ cₖ ℓₖ being a mean over B examples.

    The targets of different outputs are drawn independently, so that E[u uᵀ] is block-diagonal as
    the Hessian is. An example counts in A by the mean of what it counts in each loss, by cₖ.

    Raises:
      ValueError: If a loss has a negative weight, or no known distribution of targets.
    """
    examples = outputs.shape[0]
    negative = [part.weight for part in joint.parts if part.weight < 0]
    if negative:
        raise ValueError(
            f"K-FAC expects weights of losses that are at least 0, got {negative}: the Fisher "
            "matrix of their sum has no root. Train with mlhf.HessianFree."
        )
    parts = joint.apart(outputs, share.objective.targets, weights, mask)
    columns: list[list[tf.Tensor]] = []
    presences, weighings, total = [], [], 0.0
    for number, (part, z, y, w, m) in enumerate(parts):
        own = tf.random.experimental.stateless_fold_in(seed, number) if number else seed
        drawn = _of_loss(share, part.loss, z, y, w, m, fisher, own)
        scale = tf.sqrt(part.weight * examples / tf.cast(drawn.terms, z.dtype))
        columns.append([tf.reshape(scale * u, [examples, -1]) for u in drawn.gradients])
        presences.append(_of_examples(drawn.present, examples, z.dtype))
        weighings.append((part.weight, _of_examples(drawn.weights, examples, z.dtype)))
        total += part.weight
    present = None
    if all(presence is not None for presence in presences):
        present = tf.reduce_any(tf.stack(presences) > 0, 0)
    of_examples = None
    if any(weighing is not None for _, weighing in weighings):
        one = tf.ones([examples], outputs.dtype)
        each = [share_of * (one if w is None else w) for share_of, w in weighings]
        of_examples = tf.add_n(each) / (total or 1.0)
    if fisher == "exact":
        # A column of one output is zero at the others.
        zeros = [tf.zeros_like(parts_columns[0]) for parts_columns in columns]
        gradients = [
            tf.concat([*zeros[:number], u, *zeros[number + 1 :]], 1)
            for number, parts_columns in enumerate(columns)
            for u in parts_columns
        ]
    else:
        gradients = [tf.concat([u for (u,) in columns], 1)]
    count = factors.present_count(outputs, examples, present)
    return Drawn(gradients, examples, present, of_examples, count)


def _of_examples(of_terms: tf.Tensor | None, examples: int, dtype: tf.DType) -> tf.Tensor | None:
    """Returns the mean over an example's terms, [B]; None for None."""
    if of_terms is None:
        return None
    return tf.reduce_mean(tf.reshape(tf.cast(of_terms, dtype), [examples, -1]), 1)


def _of_terms(part: tf.Tensor | None, loss: losses.Loss, outputs: tf.Tensor) -> tf.Tensor | None:
    """Returns weights or a mask of examples or terms in the shape of the loss's terms."""
    if part is None:
        return None
    axes = loss.term_axes(outputs) if isinstance(loss, losses.MeanLoss) else 1
    while part.shape.rank < axes:
        part = part[..., tf.newaxis]
    part = tf.cast(part, outputs.dtype) if part.dtype.is_floating else part
    return tf.broadcast_to(part, tf.shape(outputs)[:axes])


def _as_on_one_device(
    share: Share,
    loss: losses.Loss,
    outputs: tf.Tensor,
    targets: tf.Tensor,
    fisher: str,
    seed: tf.Tensor,
) -> list[tf.Tensor]:
    """Returns the gradients at the outputs, drawn as one device would draw them for the batch."""
    if share.of == 1 or fisher == "exact":
        return factors.output_gradients(loss, outputs, targets, fisher, seed)
    # An example's draw depends on its place in the batch: places of other shares are left empty.
    size = outputs.shape[0]
    before, after = share.number * size, (share.of - 1 - share.number) * size

    def among_all(tensor: tf.Tensor) -> tf.Tensor:
        return tf.pad(tensor, [[before, after], *[[0, 0]] * (tensor.shape.rank - 1)])

    gradients = factors.output_gradients(loss, among_all(outputs), among_all(targets), fisher, seed)
    return [gradient[before : before + size] for gradient in gradients]
