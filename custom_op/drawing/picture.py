"""Draws the computation of a function and of its derivatives."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from custom_op import structures
from custom_op.drawing import formats, graph, layout
from custom_op.linearization import jvp

Structure = Any


class Picture:
    """A traced computation as a picture; a notebook shows it.

    Attributes:
      graph: The nodes and edges that it shows.
      name: Its title.
    """

    def __init__(self, shown: graph.Graph, name: str) -> None:
        self.graph = shown
        self.name = name

    @functools.cached_property
    def dot(self) -> str:
        """The picture in the language of Graphviz."""
        return formats.dot(self.graph, self.name)

    @functools.cached_property
    def svg(self) -> str:
        """The picture as SVG; this needs no other program."""
        return formats.svg(self.graph, layout.arrange(self.graph), self.name)

    def save(self, path: str | Path) -> Path:
        """Writes the picture.

        Args:
          path: A file whose name ends in `.svg` or `.dot`.

        Returns:
          The path.

        Raises:
          ValueError: If the name ends in something else.
        """
        path = Path(path)
        if path.suffix not in (".svg", ".dot"):
            raise ValueError(f"Expected a file name that ends in .svg or .dot, got {str(path)!r}.")
        path.write_text(self.svg if path.suffix == ".svg" else self.dot, encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        return self.svg


def draw(
    function: Callable[..., Structure],
    *inputs: Structure,
    derivatives: Sequence[str] = (),
    depth: int | None = None,
    constants: bool = False,
) -> Picture:
    """Draws the computation of a function, grouped by name scope.

    Inputs and variables are boxes, constants gray boxes, operations ovals, outputs green boxes;
    every `tf.name_scope`, and so every layer of a Keras model, is a frame::

        custom_op.draw(lambda x, y: x * y + tf.exp(x + 3), 3.0, 4.0).save("z.svg")
        custom_op.draw(network, weights, derivatives=["reverse", "forward"], depth=1)

    Args:
      function: A function from the inputs to a structure of tensors.
      *inputs: Structures of tensors, numbers or `tf.TensorSpec`s.
      derivatives: The derivatives to take before drawing, one after the other: `"reverse"` for the
        gradient of the sum of the outputs in the floating inputs, `"forward"` for the derivative
        along a tangent of ones, by R-forward. Two or more make derivatives of derivatives.
      depth: The number of nested scopes that may be open; deeper scopes become one node each. 0
        draws each outermost scope as a node, None opens all.
      constants: Whether integer constants (axes, sizes, indices) are shown too.

    Returns:
      The picture, with `.svg`, `.dot` and `.save(path)`.

    Raises:
      ValueError: If a derivative is neither of the two, `depth` is negative, or there is no
        floating input to differentiate with respect to.
    """
    unknown = [how for how in derivatives if how not in ("reverse", "forward")]
    if unknown or isinstance(derivatives, str):
        raise ValueError(
            f'Expected derivatives as a list of "reverse" and "forward", got {derivatives!r}.'
        )
    if depth is not None and depth < 0:
        raise ValueError(f"Expected a depth of at least 0, or None, got {depth}.")
    names = _input_names(function, inputs)
    specs = [_spec(leaf) for leaf in tf.nest.flatten(inputs)]
    if derivatives and not any(spec.dtype.is_floating for spec in specs):
        raise ValueError("Expected a floating input to differentiate in, got none.")
    results: list[str] = []

    def flat(*leaves: tf.Tensor) -> list[tf.Tensor]:
        outputs = function(*tf.nest.pack_sequence_as(inputs, list(leaves)))
        results[:] = structures.leaf_names(outputs)
        if len(results) == 1 and not tf.nest.is_nested(outputs):
            results[:] = ["output"]
        return [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(outputs)]

    traced = flat
    for how in derivatives:
        traced = _derivative(traced, how, names, results)
    concrete = tf.function(traced, autograph=False).get_concrete_function(*specs)
    shown = graph.collapse(graph.read(concrete, names, results, constants), depth)
    title = getattr(function, "__name__", type(function).__name__).replace("<lambda>", "function")
    return Picture(shown, " of ".join([*(f"{how} derivative" for how in derivatives[::-1]), title]))


def _derivative(
    function: Callable[..., list[tf.Tensor]], how: str, names: list[str], results: list[str]
) -> Callable[..., list[tf.Tensor]]:
    def run(*leaves: tf.Tensor) -> list[tf.Tensor]:
        chosen = [i for i, leaf in enumerate(leaves) if leaf.dtype.is_floating]

        def of_floating(floating: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            current = list(leaves)
            for i, leaf in zip(chosen, floating, strict=True):
                current[i] = leaf
            return [z for z in function(*current) if z.dtype.is_floating]

        floating = [leaves[i] for i in chosen]
        if how == "forward":
            with tf.name_scope("forward"):
                tangents = [tf.ones_like(leaf) for leaf in floating]
            outputs = jvp(of_floating, floating, tangents)[1]
            results[:] = [f"tangent of {name}" for name in results[: len(outputs)]]
            return outputs
        with tf.GradientTape() as tape:
            tape.watch(floating)
            outputs = of_floating(floating)
        with tf.name_scope("reverse"):
            slopes = tape.gradient(outputs, floating, unconnected_gradients="zero")
        before = " + ".join(results[:1] + (["..."] if len(results) > 1 else []))
        results[:] = [f"d({before})/d({names[i]})" for i in chosen]
        return [tf.convert_to_tensor(slope) for slope in slopes]

    return run


def _spec(leaf: Any) -> tf.TensorSpec:
    if isinstance(leaf, tf.TensorSpec):
        return tf.TensorSpec(leaf.shape, leaf.dtype)
    tensor = tf.convert_to_tensor(leaf)
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _input_names(function: Callable[..., Any], inputs: Structure) -> list[str]:
    """Names the leaves of the inputs by the function's parameters and the paths in each."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = []
    for i, argument in enumerate(inputs):
        name = f"input {i}"
        if i < len(parameters) and parameters[i].kind is not parameters[i].VAR_POSITIONAL:
            name = parameters[i].name
        nested = tf.nest.is_nested(argument)
        inside = structures.leaf_names(argument)
        names += [f"{name}/{leaf}" for leaf in inside] if nested else [name]
    return names
