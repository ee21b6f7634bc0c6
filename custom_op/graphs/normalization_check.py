"""Finds layers whose second derivatives TensorFlow gets wrong.

`tf.nn.moments` stops the gradient of the mean inside the variance, and Keras' BatchNormalization
in training, LayerNormalization and GroupNormalization inherit this: their second derivatives are
wrong in TensorFlow, by a few percent up to a factor of 30. The derivatives of this package see
through it (`custom_op.rules.moments`): `jvp` of `jvp`, products of `hessian`, `linearize` of a
gradient taken by a tape, and `tf.GradientTape` over either of the first two are right. TensorFlow's
own remain wrong: a tape in a tape, and a tape over the linearization of a tape's gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op import structures
from custom_op import tensorflow_internals as internals
from custom_op.rules import moments

Structure = Any


@tf.autograph.experimental.do_not_convert
def stopped_means(function: Callable[[Structure], Structure], inputs: Structure) -> list[str]:
    """Returns the scopes of a function in which `tf.nn.moments` stops a mean.

    Code that differentiates with tapes alone can ask before trusting a second derivative::

        if layers := stopped_means(network, parameters):
            raise ValueError(f"The second derivatives of {layers} by a tape in a tape are wrong.")

    Args:
      function: A function of a structure of tensors. It is traced, not run.
      inputs: A structure of tensors, variables or arrays.

    Returns:
      The name scopes, such as `"sequential_1/layer_normalization_1/moments"`, in the order of the
      trace; those inside a called `tf.function` follow the name of that function.
    """
    specs = tf.nest.map_structure(structures.spec_of, inputs)
    traced = tf.function(function, autograph=False).get_concrete_function(specs)
    return _scopes(traced.graph, "", set())


def _scopes(graph: Any, prefix: str, seen: set[str]) -> list[str]:
    scopes = []
    for op in graph.get_operations():
        if moments.is_stopped_mean(op):
            scopes.append(prefix + (op.name.rpartition("/")[0] or op.name))
        for attribute in op.node_def.attr.values():
            for called in (attribute.func, *attribute.list.func):
                body = internals.function_graph(graph, called.name)
                if body is not None and called.name not in seen:
                    seen.add(called.name)
                    scopes += _scopes(body, f"{prefix}{op.name}/", seen)
    return scopes
