"""The paths of a traced graph on which tapes and `tf.gradients` lose a derivative."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import fallback
from custom_op.graphs.copying import Branches, Loop
from custom_op.graphs.gradient_pairs import Pair, pairs
from custom_op.graphs.inner_graphs import BRANCHES, CALLS, LOOPS, ancestors, called_graph

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
    input: int  # its position
    sources: frozenset[int]  # which sources reach that input


class Paths:
    """What becomes of the derivatives of some tensors on the way to others.

    Attributes:
      missing: Operations that TensorFlow has no gradient of, or an incomplete one, on the way from
        sources to targets.
      drawn: Decisions by a random draw that depend on sources and no excluded one, and on which
        targets depend: a comparison with random numbers, or a draw by probabilities. Their
        derivative for given numbers is zero, that of their mean is not.
    """

    def __init__(
        self,
        sources: Sequence[tf.Tensor],
        targets: Sequence[tf.Tensor],
        undrawn: Sequence[int] = (),
    ):
        """Follows the sources.

        Args:
          sources: Tensors of a graph.
          targets: Tensors of the same graph.
          undrawn: The sources whose random decisions do not count.
        """
        # Bits: the first for random numbers, one a source, then one a place found on the way. Of a
        # place the bit travels on, so that what never reaches a target is left out in the end.
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
        found = [self._places[key] for key, bit in self._bit_of.items() if reached & bit]
        self.missing = [lost for drawn, lost in found if not drawn]
        self.drawn = [lost for drawn, lost in found if drawn]

    @staticmethod
    def _source(i: int) -> int:
        return 2 << i

    def _masks(self, wanted: Sequence[tf.Tensor], known: dict[Any, int]) -> list[int]:
        """Returns the bits of tensors, from those of others in the same graph."""
        known = dict(known)
        for op in ancestors(wanted, known):
            incoming = [known.get(value.ref(), 0) for value in op.inputs]
            for output, mask in zip(op.outputs, self._through(op, incoming), strict=False):
                # Sources stay what they are.
                known.setdefault(output.ref(), mask)
        return [known.get(tensor.ref(), 0) for tensor in wanted]

    def _through(self, op: tf.Operation, incoming: list[int]) -> list[int]:
        if op.type in CALLS:
            body = called_graph(op)
            return self._inside(body.outputs[: len(op.outputs)], body.inputs, incoming)
        if op.type in LOOPS:
            loop = Loop(op)
            current = incoming[: len(loop.variables)]
            while True:
                moved = self._inside(loop.results, loop.variables, current)
                after = [a | b for a, b in zip(current, moved, strict=True)]
                if after == current:
                    return after
                current = after
        if op.type in BRANCHES:
            branches = Branches(op)
            masks = [incoming[0] & ~self._differential] * len(op.outputs)
            for inputs, outputs in zip(branches.inputs, branches.outputs, strict=True):
                inside = self._inside(outputs, inputs, incoming[1:])
                masks = [a | b for a, b in zip(masks, inside, strict=True)]
            return masks
        if _DRAW.match(op.type):
            return self._through_draw(op, incoming)
        return self._through_operation(op, incoming) if any(incoming) else [0] * len(op.outputs)

    def _inside(self, outputs, inputs, incoming):
        return self._masks(
            outputs, {t.ref(): mask for t, mask in zip(inputs, incoming, strict=False)}
        )

    def _through_draw(self, op, incoming):
        # Random integers choose examples; what is drawn that way is data.
        masks = [
            mask | (_RANDOM if output.dtype.is_floating else 0)
            for output, mask in zip(op.outputs, self._through_operation(op, incoming), strict=True)
        ]
        sources = self._sources_of(op, incoming)
        if sources and not self._passes(op):
            bit = self._place(op, 0, sources, drawn=True)
            masks = [mask | bit for mask in masks]
        return masks

    def _through_operation(self, op, incoming):
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
                # The k largest numbers move with the hyperparameter; which they are is decided.
                masks = [
                    mask | bit if here or not any(chosen) else mask
                    for mask, here in zip(masks, chosen, strict=True)
                ]
        return masks

    def _passes(self, op):
        return any(pair is Pair.PASSES for pair in pairs(op).values())

    def _sources_of(self, op, incoming):
        """The sources that an operation's floating inputs depend on; none if one is excluded."""
        mask = 0
        for value, bits in zip(op.inputs, incoming, strict=True):
            if fallback.carries_tangents(value):
                mask |= bits & self._all_sources
        return 0 if mask & self._undrawn else mask

    def _place(self, op, i, mask, drawn):
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
    """Raises NotDifferentiableError for the first operation on which a derivative is lost.

    Args:
      paths: From some tensors to others.
      names: What the sources are, for the error's text.
      what: What the targets are.
    """
    for lost in paths.missing:
        position = fallback._name(lost.op.op_def.input_arg, len(lost.op.inputs), lost.input)
        listed = ", ".join(dict.fromkeys(names[i] for i in sorted(lost.sources)))
        wrong = fallback.WRONG.get(lost.op.type)
        if wrong is not None:
            raise fallback.refusal(
                lost.op,
                f"{what} depends on {listed} through it, and {wrong}",
                "stop its inputs with tf.stop_gradient if they are meant to be constant, or write "
                "it in operations of TensorFlow that have a gradient",
            )
        raise fallback.refusal(
            lost.op,
            f"{what} depends on {listed} through its input {position!r}, in which TensorFlow has "
            "no complete gradient, and that part would be left out without a word",
            "stop that input with tf.stop_gradient if it is meant to be constant, or write the "
            "operation in others that have a gradient",
        )
