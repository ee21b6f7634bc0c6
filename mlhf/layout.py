"""The flat layout of parameters: blocks of coordinates, all of one block of one kind.

    flat vector   [ conv kernels ........ 0 0 | conv biases .. 0 0 0 | dense kernels ...... 0 ]
    blocks        [    0    |    1    |   2   |          3           |    4    |      5      ]
    kind of block      0         0        0              1                2           2

Linear algebra runs on the whole vector, one operation each; the learned rules run on its blocks,
[blocks, features, block size], small enough to stay in a core's cache. What fills up a kind's
last block is zero in every vector and stays so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mlhf import kinds as kinds_module
from mlhf.checks.arguments import check_parameters

LARGEST_BLOCK = 2048
SMALLEST_BLOCK = 64
# Large networks have a number of blocks that any usual number of cores divides.
BLOCKS_IN_A_ROW = 8


class Layout:
    """How the leaves of a structure lie in one flat vector.

    Attributes:
      size: The vector's length, padding included.
      parameters: The number of parameters, P.
      block: The number of coordinates in a block, C.
      blocks: The number of blocks, size / C.
      kinds: The kinds present, sorted.
      dtype: The leaves' dtype.
    """

    def __init__(self, structure: Any, kinds: Any = None, block: int | None = None):
        """Lays out a structure.

        Args:
          structure: Tensors of static shape and one floating dtype.
          kinds: As for `mlhf.kinds.resolve_kinds`.
          block: Coordinates in a block; by default a power of two between 64 and 2,048, about a
            sixteenth of the parameters.

        Raises:
          ValueError: If there are none, a shape is not static, dtypes are mixed or not floating, or
            a kind is not known.
        """
        self.dtype = check_parameters(structure)
        if self.dtype not in (tf.float32, tf.float64):
            raise ValueError(
                f"Expected parameters in float32 or float64, got {self.dtype.name}: conjugate "
                "gradients and sums over all of them need that precision. Keep them in float32 and "
                'compute in less (product_dtype="bfloat16", or a Keras policy such as '
                '"mixed_bfloat16").'
            )
        leaves = tf.nest.flatten(structure)
        self._structure = tf.nest.map_structure(lambda _: None, structure)
        self._shapes = [tuple(leaf.shape) for leaf in leaves]
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        leaf_kinds = kinds_module.resolve_kinds(structure, kinds)
        self.kinds = sorted(set(leaf_kinds))
        self.parameters = sum(sizes)
        self.block = block or _block_size(self.parameters)

        # The pieces of the vector in order: (leaf, size), and (None, padding) behind each kind.
        self._pieces: list[tuple[int | None, int]] = []
        kind_of_block: list[int] = []
        for number, kind in enumerate(self.kinds):
            members = [i for i, leaf_kind in enumerate(leaf_kinds) if leaf_kind == kind]
            total = sum(sizes[i] for i in members)
            blocks = -(-total // self.block)
            kind_of_block += [number] * blocks
            self._pieces += [(i, sizes[i]) for i in members]
            self._pieces.append((None, blocks * self.block - total))
        if len(kind_of_block) >= 8 * BLOCKS_IN_A_ROW:
            extra = -len(kind_of_block) % BLOCKS_IN_A_ROW
            kind_of_block += [kind_of_block[-1]] * extra
            self._pieces.append((None, extra * self.block))
        self._pieces = [piece for piece in self._pieces if piece[1]]
        self.kind_of_block = np.array(kind_of_block, np.int32)
        self.blocks = len(kind_of_block)
        self.size = self.blocks * self.block

    @property
    def signature(self) -> tuple:
        """What a function compiled for this layout depends on: which leaf lies where, as what."""
        return tuple(self.kinds), self.block, tuple(self._pieces), tuple(self._shapes)

    def flatten(self, structure: Any) -> tf.Tensor:
        """Returns the flat vector of a structure, shape [size]."""
        leaves = tf.nest.flatten(structure)
        return tf.concat(
            [
                tf.zeros([size], self.dtype)
                if leaf is None
                else tf.reshape(tf.convert_to_tensor(leaves[leaf]), [-1])
                for leaf, size in self._pieces
            ],
            0,
        )

    def unflatten(self, vector: tf.Tensor) -> Any:
        """Returns the structure of a flat vector."""
        leaves: list[Any] = [None] * len(self._shapes)
        parts = tf.split(vector, [size for _, size in self._pieces])
        for (leaf, _), part in zip(self._pieces, parts, strict=True):
            if leaf is not None:
                leaves[leaf] = tf.reshape(part, self._shapes[leaf])
        # Empty leaves have no piece.
        leaves = [
            tf.zeros(shape, self.dtype) if leaf is None else leaf
            for leaf, shape in zip(leaves, self._shapes, strict=True)
        ]
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def to_blocks(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns a flat vector as blocks, shape [blocks, block]."""
        return tf.reshape(vector, [self.blocks, self.block])

    def inverse_root_mean_square(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns for every coordinate one over the root mean square of its variable's entries.

        Args:
          vector: [size].

        Returns:
          [size]; ones where a variable's entries are all zero, and at padding.
        """
        parts = []
        for (leaf, size), part in zip(
            self._pieces, tf.split(vector, [size for _, size in self._pieces]), strict=True
        ):
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


def _block_size(parameters: int) -> int:
    block = SMALLEST_BLOCK
    while block < LARGEST_BLOCK and block * 16 < parameters:
        block *= 2
    return block
