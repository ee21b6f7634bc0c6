"""What K-FAC takes of a batch: loss, gradient and factors, share by share."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import structures
from custom_op.graphs import detours
from custom_op.graphs.gradient_paths import Paths, refuse_missing
from mlhf.objective import Objective
from mlhf.objective.shares import Mean, Share
from mlhf.optimizers.kfac import factors as factors_module
from mlhf.optimizers.kfac.blocks import Block
from mlhf.optimizers.kfac.draws import drawn_at
from mlhf.optimizers.kfac.factors import Factors
from mlhf.optimizers.kfac.tracing import TracedNetwork

# The factors are taken on at least this many examples, if the batch has them.
_FEWEST_EXAMPLES = 32


class BatchQuantities(NamedTuple):
    """What a step takes of a batch."""

    value: tf.Tensor  # the mean loss, with the regularizer
    gradient: list[tf.Tensor]  # its gradient
    factors: Factors  # A and G by block
    counts: tf.Tensor  # whether a term of the examples that the factors are taken on is present
    model_state: Any  # the network's state after the batch


def of_batch(
    objective: Objective,
    parameters: Any,
    blocks: list[Block],
    factor_share: float,
    fisher: str,
    seed: tf.Tensor,
) -> BatchQuantities:
    """Returns what a step takes of a batch, of which devices may have shares.

    Args:
      objective: The objective, of one term.
      parameters: The point.
      blocks: The blocks of the parameters.
      factor_share: The share of the batch that factors are taken on.
      fisher: The kind of G, as for `factors.output_gradients`.
      seed: The seed for drawing, int32 [2].

    Raises:
      ValueError: If the size of the batch is not static.
    """
    share_of_factors = _share_of_factors(factor_share, objective.batch_size())

    def of_share(share: Share) -> tuple[list[Mean], Any]:
        whole = share.objective
        network = TracedNetwork(whole.outputs, parameters)
        value, gradient, terms = _value_and_gradient(whole, parameters, network)
        means = [Mean(terms, [value, *gradient])]
        part = whole.first_examples(share_of_factors)
        if part is not whole:
            network_of_part = TracedNetwork(part.outputs, parameters)
        else:
            network_of_part = network
        of_part = share._replace(objective=part)
        means += _factors(of_part, network_of_part, blocks, fisher, seed)
        return means, network.model_state

    (first, of_g, *of_a), (_, terms, *_), model_state = objective.over_shares(of_share)
    value, *gradient = first
    if objective.regularizer is not None:
        value += objective.regularizer.value(parameters)
        more = tf.nest.flatten(objective.regularizer.gradient(parameters))
        gradient = [g + m for g, m in zip(gradient, more, strict=True)]
    names = [block.name for block in blocks]
    factors = {name: (a, g) for name, (a,), g in zip(names, of_a, of_g, strict=True)}
    return BatchQuantities(value, gradient, factors, terms > 0, model_state)


def _share_of_factors(share: float, size: Any) -> float:
    """Returns the share of a batch that factors are taken on."""
    if tf.is_tensor(size):
        raise ValueError(
            "Expected a batch of static size, of whose examples K-FAC takes the factors, got one "
            "of unknown size: batch with drop_remainder=True, or give the tf.function's signature "
            "a number in the place of None."
        )
    return max(share, min(1, _FEWEST_EXAMPLES / size))


def _factors(
    share: Share, network: TracedNetwork, blocks: list[Block], fisher: str, seed: tf.Tensor
) -> list[Mean]:
    """Returns the factors G and then each A of a share's examples, in the order of blocks."""
    layers = [network.layer(block) for block in blocks]
    drawn = drawn_at(share, network.outputs, fisher, seed)
    factors, counts = factors_module.of_batch(
        network, blocks, layers, drawn.gradients, drawn.terms, drawn.present, drawn.weights
    )
    of_g = Mean(drawn.count, [factors[block.name][1] for block in blocks])
    # Shares whose examples weigh more count more in A.
    return [of_g, *[Mean(counts[block.name], [factors[block.name][0]]) for block in blocks]]


def _value_and_gradient(
    objective: Objective, parameters: Any, network: TracedNetwork
) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """Returns the mean loss, its gradient, and the number of terms in the mean."""
    objective.loss.check(network.outputs, objective.targets)
    names = [f"the parameter {name!r}" for name in structures.leaf_names(parameters)]
    refuse_missing(Paths(network.leaves, [network.outputs]), names, "the network")
    detours.check(network.leaves, [network.outputs])
    dtype, evaluation = network.leaves[0].dtype, objective.evaluation(network.outputs)
    gradient = tf.gradients(
        network.outputs,
        network.leaves,
        grad_ys=evaluation.gradient(),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return tf.cast(evaluation.value(), dtype), gradient, evaluation.count
