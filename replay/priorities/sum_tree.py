"""A sum tree: draws an index with probability proportional to its value in logarithmic time."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


class SumTree:
    """A binary tree whose leaves hold values and whose inner nodes the sums of their children.

    With 5 leaves and the values 3, 1, 4, 1, 5 (nodes numbered as in the array behind it, leaves
    padded with zeros to a power of two):

                          1:14
                  ┌────────┴────────┐
                 2:9               3:5
              ┌───┴───┐         ┌───┴───┐
             4:4     5:5       6:5     7:0
            ┌─┴─┐   ┌─┴─┐     ┌─┴─┐   ┌─┴─┐
            3   1   4   1     5   0   0   0
    leaf    0   1   2   3     4

    `find(mass)` walks from the root to the leaf whose share of [0, total) holds the mass: leaf 0
    owns [0, 3), leaf 1 [3, 4), leaf 2 [4, 8), and so on; 6.5 goes left (6.5 < 9), right (6.5 ≥ 4,
    2.5 remain), left (2.5 < 4): leaf 2.

    A node is always computed as left + right, never by adding a difference to its former value. So
    rounding does not accumulate, and a tree depends on its values alone and not on the order in
    which they were set: a tree rebuilt from a checkpoint draws exactly what the first one drew.
    """

    def __init__(self, size: int) -> None:
        """Builds a tree of zeros. O(size).

        Args:
          size: The number of leaves, at least 1; any number, not only powers of two.

        Raises:
          ValueError: If `size` is less than 1.
        """
        if size < 1:
            raise ValueError(f"expected a tree with at least 1 leaf, got size={size}")
        self._size = size
        self._first_leaf = 1 << (size - 1).bit_length()
        self._nodes = np.zeros(2 * self._first_leaf)

    def __len__(self) -> int:
        """The number of leaves. O(1)."""
        return self._size

    @property
    def total(self) -> float:
        """The sum of all values, the value of the root. O(1)."""
        return float(self._nodes[1])

    @property
    def values(self) -> NDArray[np.float64]:
        """The values of the leaves, float64 [size]; a read-only view, not a copy. O(1)."""
        view = self._nodes[self._first_leaf : self._first_leaf + self._size]
        view.flags.writeable = False
        return view

    def set(self, leaf: int, value: float) -> None:
        """Gives a leaf a value. O(log size).

        Args:
          leaf: An index with 0 ≤ leaf < size.
          value: A finite number that is not negative.

        Raises:
          IndexError: If the leaf does not exist.
          ValueError: If the value is negative, infinite or NaN.
        """
        if not 0 <= leaf < self._size:
            raise IndexError(f"expected a leaf from 0 to {self._size - 1}, got {leaf}")
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"expected a finite value that is not negative, got {value}")
        nodes = self._nodes
        node = self._first_leaf + leaf
        nodes[node] = value
        while node > 1:
            node //= 2
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]

    def find(self, mass: ArrayLike) -> NDArray[np.int64]:
        """Finds the leaves that own the given points of [0, total). O(k log size).

        With a mass uniform on [0, total), leaf i is found with probability values[i] / total.

        Args:
          mass: Points, float64 [k], with 0 ≤ mass < total.

        Returns:
          The leaves, int64 [k]: values[:i].sum() ≤ mass < values[:i + 1].sum(), up to rounding.
          A leaf whose value is 0 is never returned.

        Raises:
          ValueError: If a mass lies outside [0, total); so does every mass while all values are 0.
        """
        left_over = np.array(mass, dtype=np.float64, ndmin=1)
        if not np.all((left_over >= 0) & (left_over < self.total)):
            raise ValueError(f"expected masses in [0, {self.total}), got {left_over}")
        nodes = self._nodes
        node = np.ones(left_over.shape, dtype=np.int64)
        for _ in range(self._first_leaf.bit_length() - 1):  # all leaves are equally deep
            left = nodes[2 * node]
            # Rounding can leave a mass of what the left child holds, or more, at the very end of
            # a node's share. It must not slip into a right child that holds nothing.
            go_right = (left_over >= left) & (nodes[2 * node + 1] > 0)
            left_over = np.where(go_right, left_over - left, left_over)
            node = 2 * node + go_right
        return node - self._first_leaf
