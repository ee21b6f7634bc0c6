"""The blocks of K-FAC's matrix: which parameters form one, and its Kronecker factors' shapes.

A block's gradient is a matrix V [a, g], and its part of the Fisher matrix is A ⊗ G, with A [a, a]
from the layer's inputs and G [g, g] from the gradients at its outputs:

    kernel [in, out], bias [out]          V [in + 1, out]           a row of the bias below
    kernel [h, w, in, out], bias [out]    V [h w in + 1, out]       as above
    any other vector [n]                  V [1, n], A = 1           G is the whole block
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from custom_op import structures

_BIASES = ("bias", "b", "biases")


@dataclasses.dataclass(frozen=True)
class Block:
    """The parameters of a block.

    Attributes:
      name: The path of the kernel or the vector.
      weight: The number of that leaf.
      bias: The number of the bias's leaf; None without one.
      shape: The weight's shape.
    """

    name: str
    weight: int
    bias: int | None
    shape: tuple[int, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether the block is a layer's kernel, not a vector."""
        return len(self.shape) > 1

    @property
    def sides(self) -> tuple[int, int]:
        """The sides a and g of V."""
        rows = int(np.prod(self.shape[:-1])) if self.is_kernel else 1
        return rows + (self.bias is not None), self.shape[-1]

    def gather(self, leaves: list[tf.Tensor]) -> tf.Tensor:
        """Returns the block's matrix V [a, g] out of all leaves."""
        matrix = tf.reshape(leaves[self.weight], [-1, self.shape[-1]])
        if self.bias is None:
            return matrix
        return tf.concat([matrix, leaves[self.bias][tf.newaxis]], 0)

    def scatter(self, matrix: tf.Tensor, leaves: list[Any]) -> None:
        """Writes a matrix [a, g] into its places among the leaves."""
        if self.bias is not None:
            leaves[self.bias] = matrix[-1]
            matrix = matrix[:-1]
        leaves[self.weight] = tf.reshape(matrix, self.shape)


def blocks_of(parameters: Any) -> list[Block]:
    """Returns the blocks that parameters form.

    A vector whose path ends in `bias` (or `b`) and begins like that of a kernel with as many
    outputs belongs to that kernel.

    Args:
      parameters: A structure of floating tensors of static shape.

    Raises:
      ValueError: If a leaf is neither a kernel [in, out] or [h, w, in, out] nor a vector.
    """
    names = structures.leaf_names(parameters)
    shapes = [tuple(leaf.shape) for leaf in tf.nest.flatten(parameters)]
    places = {name: number for number, name in enumerate(names)}
    taken: set[int] = set()
    blocks = []
    for number, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        if len(shape) in (2, 4):
            parent = name.rpartition("/")[0]
            siblings = [places.get(f"{parent}/{bias}" if parent else bias) for bias in _BIASES]
            fitting = [s for s in siblings if s is not None and shapes[s] == shape[-1:]]
            bias = fitting[0] if fitting else None
            blocks.append(Block(name, number, bias, shape))
            taken.update({number} if bias is None else {number, bias})
        elif len(shape) != 1:
            raise ValueError(
                "K-FAC expects kernels [in, out] of dense layers, [height, width, in, out] of "
                f"convolutions, and vectors; got the parameter {name!r} of shape {shape}. Train "
                "this network with another optimizer."
            )
    for number, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        if number not in taken:
            blocks.append(Block(name, number, None, shape))
    return blocks
