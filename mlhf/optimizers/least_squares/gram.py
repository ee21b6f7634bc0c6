"""Gram matrices."""

from __future__ import annotations

import tensorflow as tf

# Matrices of at most this size are multiplied in one piece.
_PIECE = 256


def gram(rows: tf.Tensor) -> tf.Tensor:
    """Returns A Aᵀ, of which only the lower half is multiplied.

    Args:
      rows: A, of static shape [n, m].

    Returns:
      The matrix, [n, n].
    """
    size = rows.shape[0]
    if size <= _PIECE:
        return tf.matmul(rows, rows, transpose_b=True)
    count = min(4, -(-size // _PIECE))
    edges = [size * i // count for i in range(count + 1)]
    strips = []
    for begin, end in zip(edges, edges[1:], strict=False):
        # The strip from the left up to the block on the diagonal.
        strip = tf.matmul(rows[begin:end], rows[:end], transpose_b=True)
        strips.append(tf.pad(strip, [[0, 0], [0, size - end]]))
    lower = tf.concat(strips, 0)
    # The blocks on the diagonal are there in full; what lies above comes from below.
    lower = tf.linalg.band_part(lower, -1, 0)
    return lower + tf.transpose(lower) - tf.linalg.diag(tf.linalg.diag_part(lower))
