"""Finds the layers of a traced network, with their inputs and outputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.optimizers.kfac import channels
from mlhf.optimizers.kfac.blocks import Block

# Operations that hand a parameter on unchanged.
_ALIASES = ("Identity", "Reshape", "Cast", "ExpandDims", "Squeeze", "ReadVariableOp")


class Layer(NamedTuple):
    """A block's place in the graph."""

    output: tf.Tensor  # the tensor at which gradients are taken
    inputs: tf.Tensor  # rows [R, a] for a kernel; ∂output/∂vector, in the output's shape
    axis: int  # the output's axis of channels; a kernel's rows are in the order of the other axes


class TracedNetwork:
    """A network's forward pass in the graph being traced, with its layers.

    Attributes:
      outputs: z.
      leaves: The parameters, as the derivatives are taken with respect to them.
      model_state: The network's state after the pass.
    """

    def __init__(self, function: Any, parameters: Any) -> None:
        """Runs a network.

        Args:
          function: A function from parameters to (outputs, model state).
          parameters: A structure of tensors.

        Raises:
          ValueError: If the outputs are not one tensor.
        """
        graph = tf.compat.v1.get_default_graph()
        # New operations, since the caller's tensors may be used elsewhere.
        self.leaves = [tf.identity(leaf) for leaf in tf.nest.flatten(parameters)]
        first = len(graph.get_operations())
        self.outputs, self.model_state = function(tf.nest.pack_sequence_as(parameters, self.leaves))
        if not tf.is_tensor(self.outputs):
            raise ValueError(
                "K-FAC expects a network that returns one tensor, got "
                f"{type(self.outputs).__name__}."
            )
        operations = graph.get_operations()[first:]
        reached = _ancestors(self.outputs.op)
        self._operations = [op for op in operations if op in reached]

    def layer(self, block: Block) -> Layer:
        """Returns a block's layer.

        Args:
          block: A block of the network's parameters.

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
        if op.inputs[1].shape[-1] != block.shape[-1]:
            raise _unknown(block, f"reshaped to {op.inputs[1].shape}")
        if not self._of_data(op.inputs[0]):
            raise _unknown(block, "applied to what is not a batch of data")
        output, axis = op.outputs[0], -1
        if op.type == "MatMul" and not (op.get_attr("transpose_a") or op.get_attr("transpose_b")):
            rows = op.inputs[0]
        elif op.type == "Conv2D":
            rows, output = self._patches(op, block)
            axis = 1 if _channels_first(op) else -1
        else:
            raise _unknown(block, f"used by {op.type}")
        if block.bias is not None:
            if not self._is_added(block.bias, output, axis):
                raise _unknown(block, "with a bias that is not added to its outputs alone")
            rows = tf.concat([rows, tf.ones([rows.shape[0], 1], rows.dtype)], 1)
        return Layer(output, rows, axis)

    def _is_added(self, bias: int, output: tf.Tensor, axis: int) -> bool:
        """Returns whether a layer's outputs are only added to a bias, and the bias only to them."""
        channels_of_output = output.shape[axis]
        users = self._users(output)
        # A dense layer reshapes the rows of a sequence.
        while len(users) == 1 and users[0].type in ("Identity", "Reshape") and axis == -1:
            (output,) = users[0].outputs
            if output.shape[-1] != channels_of_output:
                return False
            users = self._users(output)
        if users != self._consumers(bias) or len(users) != 1:
            return False
        (op,) = users
        if op.type == "BiasAdd":
            return axis == (1 if op.get_attr("data_format") == b"NCHW" else -1)
        if op.type not in ("Add", "AddV2"):
            return False
        # The bias's own axis, counted from the last, among axes of 1.
        (shape,) = (value.shape.as_list() for value in op.inputs if value is not output)
        from_last = axis % output.shape.rank - output.shape.rank
        others = shape[:from_last] + shape[len(shape) + from_last + 1 :]
        return (
            len(shape) >= -from_last
            and shape[from_last] == channels_of_output
            and all(side == 1 for side in others)
        )

    def _patches(self, op: Any, block: Block) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the rows [R, a] that a convolution multiplies with its kernel, and its output."""
        x, output = op.inputs[0], op.outputs[0]
        sides = op.inputs[1].shape.as_list()[:2]
        strides, rates = op.get_attr("strides"), op.get_attr("dilations")
        padding = op.get_attr("padding").decode()
        if x.op.type == "SpaceToBatchND":
            # A dilated convolution runs on every so many pixels, which are put among the examples.
            users, dilation = self._users(output), tf.get_static_value(x.op.inputs[1])
            back = [user.type for user in users] == ["BatchToSpaceND"]
            if not back or dilation is None or dilation.shape != (2,):
                raise _unknown(block, "a dilated convolution of a kind")
            x, output, rates = x.op.inputs[0], users[0].outputs[0], [1, *dilation.tolist(), 1]
            reach = [(k - 1) * rate for k, rate in zip(sides, dilation.tolist(), strict=True)]
            lost = [x.shape[i] - output.shape[i] for i in (1, 2)]
            if lost not in (reach, [0, 0]):
                raise _unknown(block, "an explicitly padded convolution")
            padding = "VALID" if lost == reach else "SAME"
        if _channels_first(op):
            # Patches are taken from channels-last images only.
            x = tf.transpose(x, [0, 2, 3, 1])
            strides, rates = ([a[0], *a[2:], a[1]] for a in (strides, rates))
        if padding == "EXPLICIT" or x.shape[-1] != op.inputs[1].shape[2]:
            raise _unknown(block, "a grouped or explicitly padded convolution")
        patches = tf.image.extract_patches(
            x, sizes=[1, *sides, 1], strides=strides, rates=rates, padding=padding
        )
        return tf.reshape(patches, [-1, patches.shape[-1]]), output

    def _vector(self, block: Block) -> Layer:
        parameter = self.leaves[block.weight]
        where = channels.follow(parameter, self._operations)
        for output in self._bottlenecks(parameter):
            axes = where.get(output.ref())
            # One axis counts channels, and the first examples.
            if axes is None or axes.start == 0 or axes.stop - axes.start != 1:
                continue
            if output.shape[0] != self.outputs.shape[0] or not self._of_data(output):
                continue
            # Each entry scales or shifts a channel: the derivative of an output in its entry is
            # the product of the Jacobian with ones, here by two products with its transpose.
            dummy = tf.zeros_like(output)
            back = tf.gradients(output, parameter, grad_ys=dummy)[0]
            coefficients = tf.gradients(back, dummy, grad_ys=tf.ones_like(back))[0]
            if coefficients is not None:
                return Layer(output, coefficients, axes.start)
        raise _unknown(block, "not a scale or a shift of the examples' channels")

    def _of_data(self, tensor: tf.Tensor) -> bool:
        """Returns whether a tensor is made of more than parameters and constants."""
        leaves = {leaf.op for leaf in self.leaves}
        return any(
            op.type == "Placeholder" and op.outputs[0].dtype != tf.resource
            for op in _ancestors(tensor.op, leaves)
        )

    def _users(self, tensor: tf.Tensor) -> list[Any]:
        return [op for op in self._operations if any(value is tensor for value in op.inputs)]

    def _consumers(self, leaf: int) -> list[Any]:
        aliases = self._aliases(leaf)
        return [
            op
            for op in self._operations
            if any(value.ref() in aliases for value in op.inputs)
            and not any(value.ref() in aliases for value in op.outputs)
        ]

    def _aliases(self, leaf: int) -> set[Any]:
        aliases = {self.leaves[leaf].ref()}
        for op in self._operations:
            if op.type in _ALIASES and op.inputs and op.inputs[0].ref() in aliases:
                aliases.add(op.outputs[0].ref())
        return aliases

    def _bottlenecks(self, parameter: tf.Tensor) -> list[tf.Tensor]:
        """Returns, in order, the tensors through which all effects on the outputs pass."""
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


def _touches(op: Any, reached: set[Any]) -> bool:
    """Returns whether an operation reads something reached; its outputs are reached then, too."""
    if not any(value.ref() in reached for value in op.inputs):
        return False
    reached.update(value.ref() for value in op.outputs)
    return True


def _ancestors(op: Any, without: Collection[Any] = ()) -> set[Any]:
    found, waiting = set(), [op]
    while waiting:
        op = waiting.pop()
        if op not in found and op not in without:
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
