"""The flat layout of parameters: blocks of coordinates, all coordinates of a block of one kind.

    flat vector   [ conv kernels ........ 0 0 | conv biases .. 0 0 0 | dense kernels ...... 0 ]
    blocks        [    0    |    1    |   2   |          3           |    4    |      5      ]
    kind of block      0         0        0              1                2           2

Linear algebra runs on the whole vector, in one operation; the learned rules run on its blocks,
[blocks, features, block size], small enough to stay in a core's cache. The padding of a kind's last
block is zero in every vector and stays so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from custom_op.flat_form import FlatForm
from mlhf import kinds as kinds_module
from mlhf.checks.arguments import check_parameters

LARGEST_BLOCK = 2048
SMALLEST_BLOCK = 64
# Large networks have a number of blocks that the usual numbers of cores divide.
BLOCKS_IN_A_ROW = 8


class Layout(FlatForm):
    """How the leaves of a structure lie in one flat vector, padding included.

    Attributes:
      parameters: The number of parameters, P.
      block: The number of coordinates in a block, C.
      blocks: The number of blocks, size / C.
      kinds: The kinds present, sorted.
    """

    def __init__(self, structure: Any, kinds: Any = None, block: int | None = None) -> None:
        """Lays out a structure.

        Args:
          structure: Tensors of static shape and one floating dtype.
          kinds: The kinds of the leaves, as for `mlhf.kinds.resolve_kinds`.
          block: The number of coordinates in a block; by default a power of two between 64 and
            2,048, about a sixteenth of the parameters.

        Raises:
          ValueError: If there are none, a shape is not static, dtypes are mixed or not floating, or
            a kind is unknown.
        """
        dtype = check_parameters(structure)
        if dtype not in (tf.float32, tf.float64):
            raise ValueError(
                f"Expected parameters in float32 or float64, got {dtype.name}: conjugate "
                "gradients and sums over all of them need that precision. Keep them in float32 "
                'and compute in less (product_dtype="bfloat16", or a Keras policy such as '
                '"mixed_bfloat16").'
            )
        super().__init__(structure, "parameters")
        self.parameters = self.size
        leaf_kinds = kinds_module.resolve_kinds(structure, kinds)
        self.kinds = sorted(set(leaf_kinds))
        self.block = block or _block_size(self.parameters)

        # After each kind comes (None, padding). Empty leaves have no piece.
        pieces: list[tuple[int | None, int]] = []
        kind_of_block: list[int] = []
        for number, kind in enumerate(self.kinds):
            members = [i for i, leaf_kind in enumerate(leaf_kinds) if leaf_kind == kind]
            total = sum(self.sizes[i] for i in members)
            blocks = -(-total // self.block)
            kind_of_block += [number] * blocks
            pieces += [(i, self.sizes[i]) for i in members]
            pieces.append((None, blocks * self.block - total))
        if len(kind_of_block) >= 8 * BLOCKS_IN_A_ROW:
            extra = -len(kind_of_block) % BLOCKS_IN_A_ROW
            kind_of_block += [kind_of_block[-1]] * extra
            pieces.append((None, extra * self.block))
        self._set_pieces([piece for piece in pieces if piece[1]])
        self.kind_of_block = np.array(kind_of_block, np.int32)
        self.blocks = len(kind_of_block)

    @property
    def signature(self) -> tuple[Any, ...]:
        """What a function compiled for it depends on: the leaves' places, shapes and kinds."""
        shapes = tuple(tuple(shape) for shape in self.shapes)
        return tuple(self.kinds), self.block, tuple(self._pieces), shapes

    def to_blocks(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns a flat vector as blocks, shape [blocks, block]."""
        return tf.reshape(vector, [self.blocks, self.block])

    def inverse_root_mean_square(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns for every coordinate one over the root mean square of its variable's entries.

        Args:
          vector: A flat vector, [size].

        Returns:
          The factors, [size]; ones where a variable's entries are all zero, and at padding.
        """
        parts = []
        for (leaf, size), part in zip(self._pieces, self._split(vector), strict=True):
            factor = tf.ones([], self.dtype)
            if leaf is not None:
                # In units of the largest entry, so that squares neither over- nor underflow.
                largest = tf.reduce_max(tf.abs(part))
                unit = tf.where(largest > 0, largest, tf.ones_like(largest))
                square = tf.reduce_mean(tf.square(part / unit))
                factor = tf.where(
                    largest > 0, tf.math.rsqrt(tf.maximum(square, 1e-30)) / unit, factor
                )
            parts.append(tf.fill([size], factor))
        return tf.concat(parts, 0)

    def mask(self) -> tf.Tensor:
        """Returns ones at parameters and zeros at padding, shape [size]."""
        return tf.concat(
            [
                tf.zeros([size], self.dtype) if leaf is None else tf.ones([size], self.dtype)
                for leaf, size in self._pieces
            ],
            0,
        )


def plain_form(parameters: Any) -> FlatForm:
    """Returns the flat form of parameters for rules without learned parts.

    It is the layout of one kind, with zeros at its end: how sums over a vector round depends on its
    length, and numbers and states should stay those of earlier versions.

    Args:
      parameters: Tensors of static shape and one dtype, float32 or float64.

    Raises:
      ValueError: If there are none, a shape is not static, or they have another dtype.
    """
    return Layout(parameters, "any")


def _block_size(parameters: int) -> int:
    block = SMALLEST_BLOCK
    while block < LARGEST_BLOCK and block * 16 < parameters:
        block *= 2
    return block
