"""Finds the paths of a traced graph on which tapes and `tf.gradients` lose a derivative."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import fallback
from custom_op.graphs.gradient_pairs import Pair, pairs
from custom_op.graphs.held_graphs import HOLDERS, states_through
from custom_op.graphs.inner_graphs import BRANCHES, ancestors

_COMPARISONS = ("Less", "LessEqual", "Greater", "GreaterEqual", "Equal", "NotEqual")
_PLACES = (
    "ArgMax",
    "ArgMin",
    "TopK",
    "TopKV2",
    "LowerBound",
    "UpperBound",
    "Bucketize",
    "InTopKV2",
)
_STEPS = (*_COMPARISONS, *_PLACES, "Floor", "Ceil", "Round", "Rint", "Sign", "Cast")
_DRAW = re.compile(
    "(Stateless|Stateful)?(Parameterized)?(Random|Uniform|StandardNormal|TruncatedNormal|Multinomial)"
)

_RANDOM = 1


class Lost(NamedTuple):
    """An operation behind which a derivative ends."""

    op: tf.Operation
    input: int  # the position of an input
    sources: frozenset[int]  # the positions of the sources that reach that input


class Paths:
    """Follows the derivatives of some tensors on the way to others.

    Attributes:
      missing: The operations between sources and targets whose gradient TensorFlow lacks, or has
        incompletely.
      drawn: The decisions by a random draw between sources and targets: comparisons with random
        numbers, and draws by probabilities; without those that depend on an excluded source. For
        given numbers their derivative is zero; that of their mean is not.
    """

    def __init__(
        self,
        sources: Sequence[tf.Tensor],
        targets: Sequence[tf.Tensor],
        undrawn: Sequence[int] = (),
    ) -> None:
        """Follows the sources.

        Args:
          sources: Tensors of a graph.
          targets: Tensors of the same graph.
          undrawn: The positions of sources whose random decisions do not count.
        """
        # Bits: the first for random numbers, one per source, then one per place found on the way.
        # A place's bit travels on, so that places that never reach a target are left out.
        self._bits = {_RANDOM: 0}
        self._floating = 0
        self._count = len(sources)
        self._places: dict[Any, tuple[bool, Lost]] = {}
        self._bit_of: dict[Any, int] = {}
        self._undrawn = sum(self._source(i) for i in set(undrawn))
        self._all_sources = sum(self._source(i) for i in range(self._count))
        self._differential = self._all_sources
        masks: dict[Any, int] = {}
        for i, source in enumerate(sources):
            masks[source.ref()] = masks.get(source.ref(), 0) | self._source(i)
        reached = 0
        for mask in self._masks([tf.convert_to_tensor(t) for t in targets], masks):
            reached |= mask
        places = [self._places[key] for key, bit in self._bit_of.items() if reached & bit]
        self.missing = [lost for drawn, lost in places if not drawn]
        self.drawn = [lost for drawn, lost in places if drawn]

    @staticmethod
    def _source(i: int) -> int:
        return 2 << i

    def _masks(self, wanted: Sequence[tf.Tensor], known: dict[Any, int]) -> list[int]:
        """Returns the bits of tensors, from the bits of others in the same graph."""
        known = dict(known)
        for op in ancestors(wanted, known):
            incoming = [known.get(value.ref(), 0) for value in op.inputs]
            for output, mask in zip(op.outputs, self._through(op, incoming), strict=False):
                # Sources keep their own bits.
                known.setdefault(output.ref(), mask)
        return [known.get(tensor.ref(), 0) for tensor in wanted]

    def _through(self, op: tf.Operation, incoming: list[int]) -> list[int]:
        if op.type in HOLDERS:
            # The choice of a branch may depend on a draw.
            chosen = incoming[0] & ~self._differential if op.type in BRANCHES else 0
            inside = states_through(op, incoming, self._inside, operator.or_)
            return [mask | chosen for mask in inside]
        if _DRAW.match(op.type):
            return self._through_draw(op, incoming)
        return self._through_operation(op, incoming) if any(incoming) else [0] * len(op.outputs)

    def _inside(
        self,
        inputs: Sequence[tf.Tensor],
        outputs: Sequence[tf.Tensor],
        operations: Sequence[tf.Operation],
        incoming: Sequence[int],
    ) -> list[int]:
        del operations
        masks = {tensor.ref(): mask for tensor, mask in zip(inputs, incoming, strict=False)}
        return self._masks(outputs, masks)

    def _through_draw(self, op: tf.Operation, incoming: list[int]) -> list[int]:
        # Random integers choose examples; examples drawn that way are data.
        masks = [
            mask | (_RANDOM if output.dtype.is_floating else 0)
            for output, mask in zip(op.outputs, self._through_operation(op, incoming), strict=True)
        ]
        sources = self._sources_of(op, incoming)
        if sources and not self._passes(op):
            bit = self._place(op, 0, sources, drawn=True)
            masks = [mask | bit for mask in masks]
        return masks

    def _through_operation(self, op: tf.Operation, incoming: list[int]) -> list[int]:
        if op.type == "StopGradient":
            return [mask & _RANDOM for mask in incoming]
        together = 0
        for mask in incoming:
            together |= mask
        other = together & ~self._differential
        masks = [other] * len(op.outputs)
        if together & self._differential:
            for (i, k), pair in pairs(op).items():
                mask = incoming[i] & self._differential
                if not mask or pair is Pair.ZERO:
                    continue
                masks[k] |= mask
                if pair is Pair.MISSING and mask & self._all_sources:
                    masks[k] |= self._place(op, i, mask, drawn=False)
        if op.type in _STEPS and together & _RANDOM:
            sources = self._sources_of(op, incoming)
            chosen = [not fallback.carries_tangents(output) for output in op.outputs]
            if sources and (any(chosen) or not self._passes(op)):
                bit = self._place(op, 0, sources, drawn=True)
                # The k largest values have derivatives; their indices are a decision.
                masks = [
                    mask | bit if here or not any(chosen) else mask
                    for mask, here in zip(masks, chosen, strict=True)
                ]
        return masks

    def _passes(self, op: tf.Operation) -> bool:
        return any(pair is Pair.PASSES for pair in pairs(op).values())

    def _sources_of(self, op: tf.Operation, incoming: list[int]) -> int:
        """Returns the sources that floating inputs depend on; 0 if one of them is excluded."""
        mask = 0
        for value, bits in zip(op.inputs, incoming, strict=True):
            if fallback.carries_tangents(value):
                mask |= bits & self._all_sources
        return 0 if mask & self._undrawn else mask

    def _place(self, op: tf.Operation, i: int, mask: int, drawn: bool) -> int:
        key = (op, i, drawn)
        mask &= self._all_sources
        if key not in self._bit_of:
            bit = 2 << (self._count + len(self._bit_of))
            self._bit_of[key] = bit
            if not drawn:
                self._differential |= bit
            self._places[key] = (drawn, Lost(op, i, frozenset()))
        sources = frozenset(i for i in range(self._count) if mask & self._source(i))
        lost = self._places[key][1]
        self._places[key] = (drawn, lost._replace(sources=lost.sources | sources))
        return self._bit_of[key]


def refuse_missing(paths: Paths, names: Sequence[str], what: str) -> None:
    """Raises for the first operation on which a derivative is lost.

    Args:
      paths: The paths from sources to targets.
      names: The names of the sources, for the error.
      what: The name of the targets, for the error.

    Raises:
      NotDifferentiableError: If a derivative is lost.
    """
    for lost in paths.missing:
        position = fallback._name(lost.op.op_def.input_arg, len(lost.op.inputs), lost.input)
        listed = ", ".join(dict.fromkeys(names[i] for i in sorted(lost.sources)))
        wrong = fallback.WRONG.get(lost.op.type)
        if wrong is not None:
            raise fallback.NotDifferentiableError(
                fallback.refusal(
                    lost.op,
                    f"{what} depends on {listed} through it, and {wrong}",
                    "stop its inputs with tf.stop_gradient if they are meant to be constant, or "
                    "write it in operations of TensorFlow that have a gradient",
                )
            )
        raise fallback.NotDifferentiableError(
            fallback.refusal(
                lost.op,
                f"{what} depends on {listed} through its input {position!r}, in which TensorFlow "
                "has no complete gradient, and that part would be left out without a word",
                "stop that input with tf.stop_gradient if it is meant to be constant, or write the "
                "operation in others that have a gradient",
            )
        )
