"""Multiplication of integers by a rational number that can be undone (Maclaurin et al. 2015).

Multiplying by n/d, n < d, loses log2(d/n) bits of every integer. They go into a buffer, and come
out again when the multiplication is undone:

    multiply  c by n/d                        undo
      push c mod d in base d                    push c mod n in base n
      c ← (c div d) · n + pop in base n         c ← (c div n) · d + pop in base d

The buffer holds a stack of digits in mixed bases for each integer: in exact arithmetic, a number i
with push: i ← i·M + N and pop: N = i mod M, i ← i div M. Here, as in a streaming asymmetric numeral
system (Duda 2013), its upper part is a 64-bit head; when the heads could overflow, the low 32 bits
of all of them move to a tape:

    head  [ uint64 ................ ]  one per integer; push and pop work here
    tape  [ uint32 ][ uint32 ] ...     rows for all integers at once, last in, first out

A bound on all heads, which follows from the bases alone, decides when rows move; a log of these
moments, one entry every few hundred multiplications, tells the undoing when to move them back.
A step costs the same however long the run is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlhf.hypergrad.exact_arithmetic import fixed_point

DENOMINATOR_BITS = 16
DENOMINATOR = 2**DENOMINATOR_BITS
LARGEST_BASE = 2 * DENOMINATOR
_WORD_BITS = np.uint64(32)
_WORD = np.uint64(2**32 - 1)
_HEAD_LIMIT = 2**64


def numerator(decay: np.ndarray | float) -> np.ndarray | np.int64:
    """Returns n of the multiple n / 2¹⁶ that stands for a decay.

    Args:
      decay: Factors with 0 < decay < 2, of any shape.

    Returns:
      The nearest int64 numbers of the same shape, at least 1. A decay of 1 is 2¹⁶ / 2¹⁶, which
      changes nothing.

    Raises:
      ValueError: If a decay is out of its range; a decay of 0 erases what the way back needs.
    """
    if isinstance(decay, float) and 0 < decay < 2:
        # The usual case of one number per step, without the detour via arrays.
        return np.int64(max(1, round(decay * DENOMINATOR)))
    decay = np.asarray(decay, np.float64)
    good = (decay > 0) & (decay < 2)
    if not np.all(good):
        raise ValueError(
            "Expected a decay (momentum) above 0 and under 2 for reversible training, got "
            f"{np.asarray(decay[~good]).ravel()[0]:g}: a decay of 0 erases the velocity and can't "
            "be undone; choose a small one such as 0.01, or use `reverse`."
        )
    return np.maximum(1, np.rint(decay * DENOMINATOR)).astype(np.int64)


def quantize_decay(decay: np.ndarray | float) -> np.ndarray:
    """Returns the decay that the reversible arithmetic works with, in float64.

    It differs from the given decay by at most 2⁻¹⁷ = 7.6e-6. Pass it to another method for results
    that agree with those of `reversible` to more digits than that.

    Args:
      decay: Factors with 0 < decay < 2, of any shape.

    Returns:
      A float64 array of the same shape, of multiples of 2⁻¹⁶.

    Raises:
      ValueError: If a decay is out of its range.
    """
    return numerator(decay) / DENOMINATOR


class _Move(NamedTuple):
    """A row that moved between heads and tape before an operation."""

    position: int  # the number of operations before
    spilled: bool  # from heads to tape; False: from tape to heads


class InformationBuffer:
    """A stack of digits in mixed bases for every integer of an array.

    Operations change the buffer in place. `undo_...` undoes the last operation that has not been
    undone, so that they must be called in the opposite order.
    """

    def __init__(self, size: int):
        """Makes empty stacks.

        Args:
          size: The number of integers.
        """
        self.head = np.zeros(size, np.uint64)
        self.tape: list[np.ndarray] = []
        self._moves: list[_Move] = []
        self._position = 0
        # A bound that no head exceeds; None if only the heads themselves can tell.
        self._bound: int | None = 0

    @property
    def nbytes(self) -> int:
        """The memory in use, in bytes."""
        return self.head.nbytes + sum(row.nbytes for row in self.tape) + 16 * len(self._moves)

    @property
    def bits(self) -> float:
        """The information in the buffer, in bits per integer, on average."""
        if not self.head.size:
            return 0.0
        in_heads = np.log2(self.head.astype(np.float64) + 1).mean()
        return float(in_heads) + 32.0 * len(self.tape)

    @property
    def empty(self) -> bool:
        """Whether every operation has been undone and no digit is left."""
        return not self._position and not self.tape and not self._moves and not self.head.any()

    def multiply(self, values: np.ndarray, numerators: np.ndarray | int) -> np.ndarray:
        """Returns values · n / 2¹⁶, exactly recoverable by `undo_multiply`.

        The result is the rational product rounded to an integer within n of it, by digits from the
        buffer.

        Args:
          values: Integers, int64 [size].
          numerators: n, from `numerator`: one for all integers, or one for each, [size].

        Returns:
          The products, int64 [size].

        Raises:
          ValueError: If n is not within 1 to 2¹⁷.
          FixedPointRangeError: If a product would not fit into 64 bits (n > 2¹⁶ only).
        """
        smallest, largest = self._check_bases(numerators)
        if largest > DENOMINATOR and values.size:
            room = (2**63 - LARGEST_BASE) // largest * DENOMINATOR
            if not -room < int(values.min()) <= int(values.max()) < room:
                raise fixed_point.FixedPointRangeError(
                    f"Expected velocities that stay in the range of the fixed-point arithmetic "
                    f"when multiplied by {largest / DENOMINATOR:g}, got some that leave it: "
                    "choose a decay of at most 1."
                )
        self._make_room(DENOMINATOR, smallest)
        quotient = values >> DENOMINATOR_BITS
        self.head <<= np.uint64(DENOMINATOR_BITS)
        self.head |= (values & (DENOMINATOR - 1)).view(np.uint64)
        product = quotient * numerators
        product += self._pop(numerators)
        self._position += 1
        assert self._bound is not None
        self._bound = (self._bound * DENOMINATOR + DENOMINATOR - 1) // smallest
        return product

    def undo_multiply(self, values: np.ndarray, numerators: np.ndarray | int) -> np.ndarray:
        """Returns the argument of `multiply` from its result.

        Args:
          values: The result, int64 [size].
          numerators: As for `multiply`.

        Returns:
          The integers that were multiplied, int64 [size].
        """
        self._check_bases(numerators)
        self._step_back()
        quotient = values // numerators
        self._push(values - quotient * numerators, numerators)
        quotient <<= DENOMINATOR_BITS
        quotient |= (self.head & np.uint64(DENOMINATOR - 1)).view(np.int64)
        self.head >>= np.uint64(DENOMINATOR_BITS)
        self._move_back()
        return quotient

    def push(self, digits: np.ndarray, base: int) -> None:
        """Pushes a digit onto every stack.

        Args:
          digits: A digit for each stack, int64 [size], 0 <= digits < base.
          base: The base, from 1 to 2¹⁷.

        Raises:
          ValueError: If the base or a digit is out of its range.
        """
        self._check_bases(base)
        if digits.size and not 0 <= int(digits.min()) <= int(digits.max()) < base:
            raise ValueError(f"Expected digits of at least 0 and under the base {base}.")
        self._make_room(base, 1)
        self._push(digits, base)
        self._position += 1
        assert self._bound is not None
        self._bound = self._bound * base + base - 1

    def pop(self, base: int) -> np.ndarray:
        """Pops a digit from every stack; an empty stack holds zeros.

        Args:
          base: As for `push`.

        Returns:
          The digits, int64 [size], 0 <= digits < base.
        """
        self._check_bases(base)
        self._make_room(1, base)
        digits = self._pop(base)
        self._position += 1
        assert self._bound is not None
        self._bound //= base
        return digits

    def undo_push(self, base: int) -> np.ndarray:
        """Undoes a `push` and returns its digits."""
        self._step_back()
        digits = self._pop(base)
        self._move_back()
        return digits

    def undo_pop(self, digits: np.ndarray, base: int) -> None:
        """Undoes a `pop`, given its digits."""
        self._step_back()
        self._push(digits, base)
        self._move_back()

    def _push(self, digits: np.ndarray, base: np.ndarray | int) -> None:
        self.head *= np.asarray(base).astype(np.uint64)
        self.head += digits.view(np.uint64)

    def _pop(self, base: np.ndarray | int) -> np.ndarray:
        base = np.asarray(base).astype(np.uint64)
        quotient = self.head // base
        digits = self.head - quotient * base
        self.head = quotient
        return digits.view(np.int64)

    def _make_room(self, pushed: int, popped: int) -> None:
        """Moves a row between heads and tape if the next push could overflow or heads run dry."""
        if self._bound is None:
            self._bound = int(self.head.max()) if self.head.size else 0
        if (self._bound + 1) * pushed > _HEAD_LIMIT:
            self.tape.append((self.head & _WORD).astype(np.uint32))
            self.head >>= _WORD_BITS
            self._bound >>= 32
            self._moves.append(_Move(self._position, spilled=True))
        elif (
            self.tape and popped > pushed and ((self._bound + 1) << 32) * pushed <= _HEAD_LIMIT // 2
        ):
            self.head <<= _WORD_BITS
            self.head |= self.tape.pop().astype(np.uint64)
            self._bound = ((self._bound + 1) << 32) - 1
            self._moves.append(_Move(self._position, spilled=False))

    def _step_back(self) -> None:
        if not self._position:
            raise ValueError("Expected an operation to undo, but all have been undone.")
        self._position -= 1

    def _move_back(self) -> None:
        """Undoes what `_make_room` did before the operation that has just been undone."""
        self._bound = None
        if self._moves and self._moves[-1].position == self._position:
            if self._moves.pop().spilled:
                self.head <<= _WORD_BITS
                self.head |= self.tape.pop().astype(np.uint64)
            else:
                self.tape.append((self.head & _WORD).astype(np.uint32))
                self.head >>= _WORD_BITS

    def _check_bases(self, bases: np.ndarray | int) -> tuple[int, int]:
        """Returns the smallest and the largest of some bases, after checking their range."""
        if isinstance(bases, np.ndarray) and bases.ndim:
            smallest, largest = int(bases.min()), int(bases.max())
        else:
            smallest = largest = int(bases)
        if smallest < 1 or largest > LARGEST_BASE:
            raise ValueError(
                f"Expected bases from 1 to {LARGEST_BASE}, got {smallest} to {largest}."
            )
        return smallest, largest
