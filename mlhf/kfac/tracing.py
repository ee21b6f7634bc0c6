"""Finds the layers of a traced network: what goes into each and what comes out of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.kfac.blocks import Block

# What hands a parameter on as it is.
_ALIASES = ("Identity", "Reshape", "Cast", "ExpandDims", "Squeeze", "ReadVariableOp")


class Layer(NamedTuple):
    """A block's place in the graph."""

    output: tf.Tensor  # at which gradients are taken
    inputs: tf.Tensor  # rows [R, a] of a kernel; ∂output/∂vector, of the output's shape
    axis: int  # of the output's channels; a kernel's rows are in the order of the other axes


class TracedNetwork:
    """A network's forward pass in the graph being traced, with its layers.

    Attributes:
      outputs: z.
      leaves: The parameters, as the derivatives are taken with respect to them.
      model_state: The network's state after the pass.
    """

    def __init__(self, function: Any, parameters: Any):
        """Runs a network.

        Args:
          function: From parameters to (outputs, model state).
          parameters: A structure of tensors.
        """
        graph = tf.compat.v1.get_default_graph()
        # Operations of their own: the caller's tensors may serve elsewhere.
        self.leaves = [tf.identity(leaf) for leaf in tf.nest.flatten(parameters)]
        first = len(graph.get_operations())
        self.outputs, self.model_state = function(tf.nest.pack_sequence_as(parameters, self.leaves))
        operations = graph.get_operations()[first:]
        reached = _ancestors(self.outputs.op)
        self._operations = [op for op in operations if op in reached]
        self._channels_first = any(_channels_first(op) for op in self._operations)

    def layer(self, block: Block) -> Layer:
        """Returns a block's layer.

        Args:
          block: Of the network's parameters.

        Raises:
          ValueError: If the parameter is not used in a way that K-FAC knows.
        """
        return self._kernel(block) if block.is_kernel else self._vector(block)

    def _kernel(self, block: Block) -> Layer:
        consumers = self._consumers(block.weight)
        if len(consumers) != 1:
            raise _unknown(block, f"used {len(consumers)} times")
        (op,) = consumers
        aliases = self._aliases(block.weight)
        if len(op.inputs) != 2 or op.inputs[1].ref() not in aliases:
            raise _unknown(block, f"used by {op.type}")
        x, output = op.inputs[0], op.outputs[0]
        axis = -1
        if op.type == "MatMul" and not (op.get_attr("transpose_a") or op.get_attr("transpose_b")):
            rows = x
        elif op.type == "Conv2D":
            rows = self._patches(op, block)
            axis = 1 if _channels_first(op) else -1
        else:
            raise _unknown(block, f"used by {op.type}")
        if block.bias is not None:
            adding = self._consumers(block.bias)
            if len(adding) != 1 or not (
                adding[0].type in ("AddV2", "BiasAdd")
                and any(value is output for value in adding[0].inputs)
            ):
                raise _unknown(block, "with a bias that is not added to its outputs")
            rows = tf.concat([rows, tf.ones([rows.shape[0], 1], rows.dtype)], 1)
        return Layer(output, rows, axis)

    def _patches(self, op: Any, block: Block) -> tf.Tensor:
        x, strides, rates = op.inputs[0], op.get_attr("strides"), op.get_attr("dilations")
        if _channels_first(op):
            # Patches are of channels-last images only.
            x = tf.transpose(x, [0, 2, 3, 1])
            strides, rates = ([a[0], *a[2:], a[1]] for a in (strides, rates))
        if op.get_attr("padding") == b"EXPLICIT" or x.shape[-1] != block.shape[2]:
            raise _unknown(block, "a grouped or explicitly padded convolution")
        patches = tf.image.extract_patches(
            x,
            sizes=[1, *block.shape[:2], 1],
            strides=strides,
            rates=rates,
            padding=op.get_attr("padding").decode(),
        )
        return tf.reshape(patches, [-1, patches.shape[-1]])

    def _vector(self, block: Block) -> Layer:
        parameter = self.leaves[block.weight]
        size = block.shape[0]
        examples = self.outputs.shape[0]
        for output in self._bottlenecks(parameter):
            shape = output.shape.as_list()
            if len(shape) < 2 or shape[0] != examples:
                continue
            # An image may be as wide as it has channels: its convolutions say which they are.
            order = (1, len(shape) - 1) if self._channels_first else (len(shape) - 1, 1)
            axes = [axis for axis in order if shape[axis] == size]
            if not axes:
                break
            # Each entry scales or shifts a channel: the derivative of an output in its entry is
            # the product of the Jacobian with ones, here by two products with its transpose.
            dummy = tf.zeros_like(output)
            back = tf.gradients(output, parameter, grad_ys=dummy)[0]
            coefficients = tf.gradients(back, dummy, grad_ys=tf.ones_like(back))[0]
            if coefficients is not None:
                return Layer(output, coefficients, axes[0])
        raise _unknown(block, "not a scale or a shift of channels")

    def _consumers(self, leaf: int) -> list[Any]:
        aliases = self._aliases(leaf)
        return [
            op
            for op in self._operations
            if any(value.ref() in aliases for value in op.inputs)
            and not any(value.ref() in aliases for value in op.outputs)
        ]

    def _aliases(self, leaf: int) -> set:
        aliases = {self.leaves[leaf].ref()}
        for op in self._operations:
            if op.type in _ALIASES and op.inputs and op.inputs[0].ref() in aliases:
                aliases.add(op.outputs[0].ref())
        return aliases

    def _bottlenecks(self, parameter: tf.Tensor) -> list[tf.Tensor]:
        """The tensors that everything the parameter does to the outputs passes, in order."""
        reached = {parameter.ref()}
        order = [op for op in self._operations if _touches(op, reached)]
        place = {op: number for number, op in enumerate(order)}
        last = max(
            (place[op] for op in order if any(v is parameter for v in op.inputs)), default=-1
        )
        found = []
        for number, op in enumerate(order):
            if number >= last:
                found.append(op.outputs[0])
            users = [place[user] for value in op.outputs for user in value.consumers()
                     if user in place]  # fmt: skip
            last = max([last, *users])
        return found


def _touches(op: Any, reached: set) -> bool:
    """Whether an operation reads something reached; notes what it makes of it."""
    if not any(value.ref() in reached for value in op.inputs):
        return False
    reached.update(value.ref() for value in op.outputs)
    return True


def _ancestors(op: Any) -> set:
    found, waiting = set(), [op]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += [value.op for value in op.inputs]
    return found


def _channels_first(op: Any) -> bool:
    return op.type == "Conv2D" and op.get_attr("data_format") == b"NCHW"


def _unknown(block: Block, how: str) -> ValueError:
    return ValueError(
        "K-FAC knows dense layers, convolutions of images and vectors that scale or shift "
        f"channels, each used once; the parameter {block.name!r} of shape {block.shape} is "
        f"{how}. Train this network with another optimizer."
    )
