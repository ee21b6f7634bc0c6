"""How much of the decrease that a quadratic model predicted the loss has shown, over all steps.

In one step on one batch the ratio of the two, which trust regions and Levenberg-Marquardt use, is
mostly noise. Over all steps so far it is not, and it tells the length of steps where curvature
alone does not: when steps are long, the network moves to where they are just stable, the curvature
along them agrees with any length, and only the decrease is missing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

# The ratio at which a length stays: of the rates that a tuning compares, the best ones show 0.35 to
# 0.9, those of half the length 0.7 to 1, those of twice the length 0.05 to 0.45.
_TARGET = 0.6
# A loss that falls by more than the models predict shows steps that are far too short: of the
# networks that were tried, it does on the paper's convnet, where the best rate is four times what
# curvature says. For each unit of ρ above 1, so much more of a change, up to ρ = 1.5.
_HASTE, _MOST_SURPLUS = 8.0, 0.5
# Batch losses are averaged over this share of the steps so far, but at least over 3.
_WINDOW, _SHORTEST = 0.2, 3.0


class Decrease(NamedTuple):
    """The losses and the predictions so far; scalars."""

    first_loss: tf.Tensor
    loss: tf.Tensor  # an average of the last batches' losses
    predicted: tf.Tensor  # the decrease that was predicted since the first step
    mean_predicted: tf.Tensor  # its average with the weights of `loss`


def no_decrease(dtype: tf.DType) -> Decrease:
    """Returns what is known before the first step."""
    return Decrease(*[tf.zeros([], dtype)] * 4)


def with_batch(
    decrease: Decrease, count: tf.Tensor, loss: tf.Tensor, predicted: tf.Tensor
) -> Decrease:
    """Returns what is known at a step.

    Args:
      decrease: What was known at the step before.
      count: The number of the step, from 1, in the dtype of the loss.
      loss: The loss on the step's batch, before the step.
      predicted: The decrease predicted for the step before; 0 at the first step.
    """
    is_first = count < 1.5
    new = tf.where(is_first, tf.ones_like(loss), 1 / tf.maximum(count * _WINDOW, _SHORTEST))
    total = decrease.predicted + predicted
    return Decrease(
        tf.where(is_first, loss, decrease.first_loss),
        decrease.loss + new * (loss - decrease.loss),
        total,
        decrease.mean_predicted + new * (total - decrease.mean_predicted),
    )


def correction(decrease: Decrease) -> tf.Tensor:
    """Returns which way the length of steps should change, from -1 (shorter) to 5 (longer).

    It is ln(ρ / 0.6) / ln(1 / 0.6) for the ratio ρ of the shown to the predicted decrease, at least
    -1; 1 + 8 (ρ - 1) above ρ = 1, up to ρ = 1.5; and -1 if either decrease is negative.

    Args:
      decrease: What is known at this step.
    """
    shown = decrease.first_loss - decrease.loss
    is_sound = (shown > 0) & (decrease.mean_predicted > 0)
    one = tf.ones_like(shown)
    ratio = tf.where(is_sound, shown, one) / tf.where(is_sound, decrease.mean_predicted, one)
    change = tf.math.log(ratio / _TARGET) / math.log(1 / _TARGET)
    surplus = tf.clip_by_value(ratio - 1, 0 * one, _MOST_SURPLUS * one)
    return tf.where(is_sound, tf.clip_by_value(change, -one, one) + _HASTE * surplus, -one)
