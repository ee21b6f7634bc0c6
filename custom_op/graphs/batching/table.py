"""The table of rules by which operations carry the extra axis."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from custom_op.graphs.batching.values import Value

# From an operation, the values of its inputs and K to the values of its outputs.
BatchingRule = Callable[[tf.Operation, list[Value], int], list[Value]]

RULES: dict[str, BatchingRule] = {}


def batches(*op_types: str) -> Callable[[BatchingRule], BatchingRule]:
    """Returns a decorator that enters a rule for some types of operation."""

    def enter(rule: BatchingRule) -> BatchingRule:
        for op_type in op_types:
            RULES[op_type] = rule
        return rule

    return enter
