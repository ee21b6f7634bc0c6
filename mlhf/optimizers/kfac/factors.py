"""The Kronecker factors of a batch, and the solve with them.

For a layer with input rows a_t and gradients g_t at its outputs, T of them per example (the places
of a convolution), the block of the Fisher matrix is approximated by A ⊗ G with

    A = 1/B Σ a_t a_tᵀ      G = 1/(B T) Σ g_t g_tᵀ

(Martens and Grosse 2015, arXiv 1503.05671, T = 1; Grosse and Martens 2016, arXiv 1602.01407,
equation 35: gradients at different places taken as uncorrelated). For a vector that scales or
shifts channels A is 1 and G the second moment of its gradients, example by example.
"""

from __future__ import annotations

import tensorflow as tf

from custom_op import losses
from mlhf.optimizers.kfac.blocks import Block
from mlhf.optimizers.kfac.tracing import Layer, TracedNetwork

Factors = dict[str, tuple[tf.Tensor, tf.Tensor]]


def output_gradients(
    loss: losses.Loss, outputs: tf.Tensor, targets: tf.Tensor, fisher: str, seed: tf.Tensor
) -> list[tf.Tensor]:
    """Returns tensors u at the outputs with Σ E[u uᵀ] = N H, the loss being a mean of N terms.

    Args:
      loss: A loss that knows the distribution of its terms' targets; H is its Hessian.
      outputs: z.
      targets: The true targets; read if the Hessian depends on them.
      fisher: The number of tensors: `"sampled"` for one, from targets drawn from the network's own
        distribution; `"exact"` for as many as z has columns, without drawing, for softmax and
        sigmoid cross entropy, squared and mean squared error.
      seed: The seed for drawing, int32 [2].

    Raises:
      ValueError: If the loss has no known distribution of targets, or one that can only be drawn
        from.
    """
    if isinstance(loss, losses.MeanLoss):
        targets = loss.prepare(outputs, targets)
    present = present_terms(loss, outputs, targets)
    gradients = _all_output_gradients(loss, outputs, targets, fisher, seed)
    if present is None:
        return gradients
    there = tf.cast(present, outputs.dtype)[..., tf.newaxis]
    return [there * u for u in gradients]


def _all_output_gradients(
    loss: losses.Loss, outputs: tf.Tensor, targets: tf.Tensor, fisher: str, seed: tf.Tensor
) -> list[tf.Tensor]:
    """Returns the tensors of `output_gradients`, also at terms that the targets leave out."""
    root = _root_of_hessian(loss, outputs)
    if fisher == "exact":
        if type(loss) is losses.SoftmaxCrossEntropy:
            return _softmax_columns(outputs, targets)
        if root is None:
            raise ValueError(
                "K-FAC has the exact factors of softmax and sigmoid cross entropy, squared and "
                f'mean squared error; got {type(loss).__name__} with fisher="exact": take '
                'fisher="sampled".'
            )
        flat = outputs.shape.num_elements() // outputs.shape[0]
        units = tf.reshape(tf.eye(flat, dtype=outputs.dtype), [flat, 1, *outputs.shape[1:]])
        return [root * units[k] for k in range(flat)]
    if root is not None:
        # K-FAC needs only the first two moments of a distribution, and signs, whose squares are
        # certain, vary least.
        shape = tf.shape(outputs)
        signs = 2 * tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32) - 1
        return [root * tf.cast(signs, outputs.dtype)]
    if isinstance(loss, losses.MeanLoss):
        try:
            return [loss.sampled_gradients(outputs, targets, seed)]
        except NotImplementedError as error:
            raise ValueError(f"K-FAC draws targets: {error}") from None
    raise ValueError(
        "K-FAC draws targets of losses that are means of terms and say how (custom_op's losses); "
        f"got {type(loss).__name__}, whose targets have no known distribution."
    )


def present_terms(loss: losses.Loss, outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor | None:
    """Returns which rows the targets leave in (a softmax's `ignore_index`); None for all."""
    if not isinstance(loss, losses.MeanLoss):
        return None
    return loss.present(loss.prepare(outputs, targets))


def terms_of(
    loss: losses.Loss, outputs: tf.Tensor, present: tf.Tensor | None = None
) -> int | tf.Tensor:
    """Returns N, the number of terms of which a loss is the mean; 1 if none is present."""
    if present is not None:
        return tf.maximum(tf.reduce_sum(tf.cast(present, outputs.dtype)), 1)
    axes = loss.term_axes(outputs) if isinstance(loss, losses.MeanLoss) else 1
    return outputs.shape[:axes].num_elements()


def present_count(
    outputs: tf.Tensor, terms: int | tf.Tensor, present: tf.Tensor | None
) -> tf.Tensor:
    """Returns how many terms are present, zero if none is.

    Args:
      outputs: The network's outputs.
      terms: N, from `terms_of`.
      present: The terms that the targets leave in, from `present_terms`.
    """
    if present is None:
        return tf.cast(terms, outputs.dtype)
    return tf.reduce_sum(tf.cast(present, outputs.dtype))


def _root_of_hessian(loss: losses.Loss, outputs: tf.Tensor) -> tf.Tensor | None:
    """Returns the square root of N H if it is diagonal, in the outputs' shape; None otherwise.

    Derived classes may have another Hessian, and are not included.
    """
    if type(loss) is losses.SigmoidCrossEntropy:
        chances = tf.sigmoid(outputs)
        return tf.sqrt(chances * (1 - chances))
    if type(loss) is losses.SquaredError:
        return tf.ones_like(outputs)
    if type(loss) is losses.MeanSquaredError:
        return tf.ones_like(outputs) * 2**0.5
    return None


def _softmax_columns(outputs: tf.Tensor, targets: tf.Tensor) -> list[tf.Tensor]:
    """Returns √(m sₖ) (s - eₖ) for every class k; m is a target's mass."""
    chances, classes = tf.nn.softmax(outputs), outputs.shape[-1]
    units = tf.eye(classes, dtype=outputs.dtype)
    weights = chances
    if not targets.dtype.is_integer:
        weights *= tf.reduce_sum(tf.cast(targets, outputs.dtype), -1, keepdims=True)
    return [tf.sqrt(weights[..., k : k + 1]) * (chances - units[k]) for k in range(classes)]


def of_batch(
    network: TracedNetwork,
    blocks: list[Block],
    layers: list[Layer],
    gradients: list[tf.Tensor],
    terms: int | tf.Tensor,
    present: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
) -> tuple[Factors, dict[str, tf.Tensor]]:
    """Returns the factors of a batch, and what each A is divided by.

    Args:
      network: The traced network.
      blocks: The blocks of its parameters.
      layers: The layer of each block.
      gradients: The tensors of `output_gradients`.
      terms: N, the number of terms of which the loss is the mean.
      present: The terms that the targets leave in, from `present_terms`. An example without any
        counts in neither factor.
      weights: The weights of the terms, in their shape, whose roots are in the gradients already;
        None for ones.

    Returns:
      A and G by the blocks' names; and by name the number of examples that A is a mean over, or
      the sum of their weights, 0 if none is present.
    """
    examples = network.outputs.shape[0]
    weight = examples / terms
    pulled = [
        tf.gradients(
            network.outputs,
            [layer.output for layer in layers],
            grad_ys=u,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        for u in gradients
    ]
    found: Factors = {}
    counts: dict[str, tf.Tensor] = {}
    for number, (block, layer) in enumerate(zip(blocks, layers, strict=True)):
        # Layers may compute in another dtype than their parameters'.
        dtype = network.leaves[block.weight].dtype
        inputs = tf.cast(layer.inputs, dtype)
        rows = [tf.cast(row[number], dtype) for row in pulled]
        if block.is_kernel:
            each_example = _of_examples(examples, present, weights, dtype)
            seen, count = _of_present_examples(inputs, examples, each_example)
            a = tf.matmul(seen, seen, transpose_a=True) / tf.where(count > 0, count, 1)
            each = [_rows(row, layer.axis) for row in rows]
        else:
            a, count = tf.ones([1, 1], dtype), tf.constant(examples, dtype)
            axes = [i for i in range(1, layer.output.shape.rank) if i != layer.axis]
            each = [tf.reduce_sum(inputs * row, axes) for row in rows]
        g = tf.add_n([tf.matmul(m, m, transpose_a=True) for m in each])
        scale = weight / each[0].shape[0]
        found[block.name] = a, g * (tf.cast(scale, dtype) if tf.is_tensor(scale) else scale)
        counts[block.name] = count
    return found, counts


def _of_examples(
    examples: int, present: tf.Tensor | None, weights: tf.Tensor | None, dtype: tf.DType
) -> tf.Tensor | None:
    """Returns how much each example counts in A, or None if all count the same.

    That is the mean of its terms' weights, or whether a term of it is present.
    """
    if weights is not None:
        if present is not None:
            weights = tf.where(present, weights, tf.zeros_like(weights))
        return tf.cast(tf.reduce_mean(tf.reshape(weights, [examples, -1]), 1), dtype)
    if present is None:
        return None
    return tf.cast(tf.reduce_any(tf.reshape(present, [examples, -1]), 1), dtype)


def _of_present_examples(
    rows: tf.Tensor, examples: int, each: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a layer's input rows times the roots of what examples count, and the sum of that."""
    if each is None or rows.shape[0] is None or rows.shape[0] % examples:
        return rows, tf.constant(examples, rows.dtype)
    roots = tf.repeat(tf.sqrt(each), rows.shape[0] // examples)
    return rows * roots[:, tf.newaxis], tf.reduce_sum(each)


def times(gradient: tf.Tensor, of_terms: tf.Tensor) -> tf.Tensor:
    """Returns a gradient at the outputs times numbers of the terms."""
    while of_terms.shape.rank < gradient.shape.rank:
        of_terms = of_terms[..., tf.newaxis]
    return gradient * of_terms


def inverses(blocks: list[Block], factors: Factors, damping: tf.Tensor) -> Factors:
    """Returns (A + π √λ I)⁻¹ and (G + √λ/π I)⁻¹, with π² = (tr A / a) / (tr G / g).

    Martens and Grosse 2015, section 6.3. A vector's block is damped as a whole, (G + λ I)⁻¹.

    Args:
      blocks: The blocks.
      factors: A and G by name.
      damping: λ, a positive scalar.
    """
    found: Factors = {}
    for block in blocks:
        a, g = factors[block.name]
        if not block.is_kernel:
            found[block.name] = tf.ones_like(a), _inverse(g, damping)
            continue
        root = tf.sqrt(damping)
        tiny = tf.constant(1e-30, a.dtype)
        means = [tf.linalg.trace(m) / side for m, side in zip((a, g), block.sides, strict=True)]
        ratio = tf.sqrt(tf.maximum(means[0], tiny) / tf.maximum(means[1], tiny))
        # A layer without gradients (or inputs) would send π and with it one damping to 0.
        ratio = tf.clip_by_value(ratio, 1e-6, 1e6)
        found[block.name] = _inverse(a, ratio * root), _inverse(g, root / ratio)
    return found


def solve(blocks: list[Block], inverted: Factors, gradient: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns A⁻¹ V G⁻¹ of every block, as leaves like the gradient's."""
    leaves: list[tf.Tensor] = list(gradient)
    for block in blocks:
        a, g = inverted[block.name]
        block.scatter(a @ block.gather(gradient) @ g, leaves)
    return leaves


def _rows(gradient: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns a gradient at a layer's output, a row for each place, a column for each channel."""
    if axis != -1:
        others = [i for i in range(gradient.shape.rank) if i != axis]
        gradient = tf.transpose(gradient, [*others, axis])
    return tf.reshape(gradient, [-1, gradient.shape[-1]])


def _inverse(matrix: tf.Tensor, damping: tf.Tensor) -> tf.Tensor:
    identity = tf.eye(matrix.shape[0], dtype=matrix.dtype)
    return tf.linalg.cholesky_solve(tf.linalg.cholesky(matrix + damping * identity), identity)
