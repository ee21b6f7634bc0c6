"""Products of matrices, contractions and convolutions."""

from __future__ import annotations

import tensorflow as tf

from custom_op.graphs.batching.table import batches
from custom_op.graphs.batching.values import (
    Batched,
    Diagonal,
    NoRuleError,
    Value,
    aligned,
    constant,
    dense,
    is_varied,
    moved,
    padded,
    run,
    shape_of,
    together,
)


@batches("MatMul")
def matrix_product(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """The product of two matrices: one large product where one of them is the same for all."""
    flips = op.get_attr("transpose_a"), op.get_attr("transpose_b")
    for place in (0, 1):
        value, other = values[place], values[1 - place]
        if isinstance(value, Diagonal) and not is_varied(other):
            found = _of_diagonal(value, other, place, flips)
            if found is not None:
                return [found]
    a, b = (dense(value) for value in values)
    if isinstance(a, Batched) and isinstance(b, Batched):
        left, right = moved(a, 0).tensor, moved(b, 0).tensor
        return [Batched(tf.matmul(left, right, transpose_a=flips[0], transpose_b=flips[1]), 0)]
    return [_first_varied(a, b, flips) if isinstance(a, Batched) else _second_varied(a, b, flips)]


def _of_diagonal(
    value: Diagonal, other: tf.Tensor, place: int, flips: tuple[bool, bool]
) -> Value | None:
    """Returns the product of a diagonal along rows with a matrix; None if a rule is missing."""
    if value.axis != 0:
        return None
    factors = [other, other]
    factors[place] = value.tensor
    # The rows are contracted if they stand where the product sums.
    contracted = flips[0] if place == 0 else not flips[1]
    if not contracted:
        product = tf.matmul(*factors, transpose_a=flips[0], transpose_b=flips[1])
        return value._replace(tensor=product, axis=place)
    # Vector k sees one row of each factor: their outer product.
    rows = [
        factors[0] if flips[0] else tf.transpose(factors[0]),
        tf.transpose(factors[1]) if flips[1] else factors[1],
    ]
    if value.copies > 1:
        parted = [tf.reshape(each, [value.copies, -1, each.shape[1]]) for each in rows]
        outer = tf.einsum("cka,ckb->kab", *parted)
    else:
        outer = rows[0][:, :, tf.newaxis] * rows[1][:, tf.newaxis, :]
    return padded(outer, value.start, value.vectors)


def _first_varied(a: Batched, b: tf.Tensor, flips: tuple[bool, bool]) -> Batched:
    if flips[0]:
        a = moved(a, 1) if a.axis == 0 else a
        inner, *outer = a.tensor.shape.as_list()
        product = tf.matmul(
            tf.reshape(a.tensor, [inner, -1]), b, transpose_a=True, transpose_b=flips[1]
        )
        axis = a.axis - 1
    else:
        a = moved(a, 0) if a.axis == 2 else a
        *outer, inner = a.tensor.shape.as_list()
        product = tf.matmul(tf.reshape(a.tensor, [-1, inner]), b, transpose_b=flips[1])
        axis = a.axis
    return Batched(tf.reshape(product, [*outer, product.shape[-1]]), axis)


def _second_varied(a: tf.Tensor, b: Batched, flips: tuple[bool, bool]) -> Batched:
    if flips[1]:
        b = moved(b, 0) if b.axis == 2 else b
        *outer, inner = b.tensor.shape.as_list()
        rows = tf.reshape(b.tensor, [-1, inner])
        product = tf.matmul(a, rows, transpose_a=flips[0], transpose_b=True)
        axis = b.axis + 1
    else:
        b = moved(b, 1) if b.axis == 0 else b
        inner, *outer = b.tensor.shape.as_list()
        product = tf.matmul(a, tf.reshape(b.tensor, [inner, -1]), transpose_a=flips[0])
        axis = b.axis
    return Batched(tf.reshape(product, [product.shape[0], *outer]), axis)


@batches("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def matrix_products(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Products of many matrices, whose leading axes broadcast."""
    rank = op.outputs[0].shape.rank
    plain = [dense(value) for value in values]
    plain = [moved(value, 0) if isinstance(value, Batched) else value for value in plain]
    tensors, axis = aligned(plain, rank)
    flips = {"adjoint_a": op.get_attr("adj_x"), "adjoint_b": op.get_attr("adj_y")}
    return [Batched(tf.matmul(*tensors, **flips), axis)]


@batches("Einsum")
def contraction(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A contraction with one more index; that of a diagonal is its axis."""
    equation = op.get_attr("equation").decode()
    terms, _, result = equation.partition("->")
    inputs = terms.split(",")
    new = next(letter for letter in "KLMNOPQRSTUVWXYZ" if letter not in equation)
    for i, value in enumerate(values):
        if isinstance(value, Diagonal):
            others = [values[j] for j in range(len(values)) if j != i]
            found = None if any(map(is_varied, others)) else _along(inputs, result, i, values)
            if found is not None:
                return [found]
    plain = [dense(value) for value in values]
    named = []
    for letters, value in zip(inputs, plain, strict=True):
        if not isinstance(value, Batched):
            named.append(letters)
        elif "." in letters:
            raise NoRuleError("an equation with an ellipsis")
        else:
            named.append(letters[: value.axis] + new + letters[value.axis :])
    # The index goes where it follows what it followed, so that little is moved.
    if "." in result:
        raise NoRuleError("an equation with an ellipsis")
    place = 0
    for letters in named:
        if new in letters and letters[-1] != new:
            place = max(place, result.find(letters[letters.index(new) + 1]))
    result = result[:place] + new + result[place:]
    tensors = [value.tensor if isinstance(value, Batched) else value for value in plain]
    return [Batched(tf.einsum(f"{','.join(named)}->{result}", *tensors), place)]


def _along(inputs: list[str], result: str, place: int, values: list[Value]) -> Value | None:
    """Returns a contraction with a diagonal; None if a rule is missing."""
    value, letters = values[place], inputs[place]
    if "." in result or any("." in term for term in inputs):
        return None
    letter = letters[value.axis]
    if letters.count(letter) > 1:
        return None
    tensors = [each.tensor if isinstance(each, Diagonal) else each for each in values]
    terms = ",".join(inputs)
    if letter in result:
        product = tf.einsum(f"{terms}->{result}", *tensors)
        return value._replace(tensor=product, axis=result.index(letter))
    if value.copies > 1:
        return None
    rows = tf.einsum(f"{terms}->{letter}{result}", *tensors)
    return padded(rows, value.start, value.vectors)


def _folded(value: Batched) -> tf.Tensor:
    """Returns a batched tensor with the extra axis and its first axis as one."""
    value = moved(value, 0) if value.axis > 1 else value
    first, second, *rest = value.tensor.shape.as_list()
    return tf.reshape(value.tensor, [first * second, *rest])


def _unfolded(tensor: tf.Tensor, value: Batched, count: int) -> Batched:
    """Returns the first axis as two again, in the order that `_folded` found."""
    axis = 1 if value.axis == 1 else 0
    examples = tensor.shape[0] // count
    leading = [examples, count] if axis else [count, examples]
    return Batched(tf.reshape(tensor, [*leading, *tensor.shape.as_list()[1:]]), axis)


def _into_channels(value: Batched, channels: int) -> tuple[tf.Tensor, bool]:
    """Returns a batched tensor with the extra axis before one axis, joined with it."""
    value = moved(value, channels)
    shape = value.tensor.shape.as_list()
    joined = [*shape[:channels], shape[channels] * shape[channels + 1], *shape[channels + 2 :]]
    return tf.reshape(value.tensor, joined), True


def _out_of_channels(tensor: tf.Tensor, channels: int, count: int) -> Batched:
    shape = tensor.shape.as_list()
    size = shape[channels] // count
    parted = [*shape[:channels], count, size, *shape[channels + 1 :]]
    return Batched(tf.reshape(tensor, parted), channels)


def _channels_last(op: tf.Operation) -> bool:
    return not op.get_attr("data_format").startswith(b"NC")


@batches("Conv2D", "Conv3D", "DepthwiseConv2dNative")
def convolution(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Images are folded into the batch, kernels into the channels that they make."""
    x, w = values
    if isinstance(x, Diagonal) and x.axis == 0 and not is_varied(w):
        return [x._replace(tensor=run(op, [x.tensor, w])[0])]
    x, w = dense(x), dense(w)
    if not is_varied(w):
        return [_unfolded(run(op, [_folded(x), w])[0], x, count)]
    if is_varied(x) or not _channels_last(op) or op.type == "DepthwiseConv2dNative":
        raise NoRuleError("both the image and the kernel vary")
    last = op.outputs[0].shape.rank - 1
    if op.inputs[0].shape[-1] != op.inputs[1].shape[-2]:
        raise NoRuleError("a convolution in groups")
    kernels, _ = _into_channels(w, last)
    return [_out_of_channels(run(op, [x, kernels])[0], last, count)]


@batches("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput")
def transposed_convolution(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """As for the convolution, whose image is now the result."""
    _, w, y = values
    if is_varied(w):
        raise NoRuleError("the kernel of a transposed convolution varies")
    shape = shape_of(op.outputs[0])
    if isinstance(y, Diagonal) and y.axis == 0:
        return [y._replace(tensor=run(op, [shape, w, y.tensor])[0])]
    y = dense(y)
    folded = _folded(y)
    back = run(op, [[folded.shape[0], *shape[1:]], w, folded])[0]
    back = tf.ensure_shape(back, [folded.shape[0], *shape[1:]])
    return [_unfolded(back, y, count)]


@batches("Conv2DBackpropFilter", "Conv3DBackpropFilterV2")
def convolution_of_gradients(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """Gradients are folded into the channels; those of a diagonal are summed example by example."""
    x, _, y = values
    if not _channels_last(op) or op.inputs[0].shape[-1] != op.outputs[0].shape[-2]:
        raise NoRuleError("channels first, or a convolution in groups")
    shape = shape_of(op.outputs[0])
    if isinstance(y, Diagonal) and y.axis == 0 and not is_varied(x):
        return [_examples_apart(op, x, y, shape)]
    x, y = dense(x), dense(y)
    last = len(shape) - 1
    if is_varied(x) and is_varied(y):
        raise NoRuleError("both the image and the gradient vary")
    place = last if is_varied(y) else last - 1
    sizes = [*shape[:place], shape[place] * count, *shape[place + 1 :]]
    if is_varied(y):
        y, _ = _into_channels(y, last)
    else:
        x, _ = _into_channels(x, last)
    return [_out_of_channels(tf.ensure_shape(run(op, [x, sizes, y])[0], sizes), place, count)]


def _examples_apart(op: tf.Operation, x: tf.Tensor, y: Diagonal, shape: list[int]) -> Batched:
    """Returns the gradient in the kernel of each example, from the patches that windows see."""
    if len(shape) != 4 or op.get_attr("padding") == b"EXPLICIT" or y.copies > 1:
        raise NoRuleError("windows whose patches TensorFlow can't extract")
    patches = tf.raw_ops.ExtractImagePatches(
        images=x,
        ksizes=[1, *shape[:2], 1],
        strides=op.get_attr("strides"),
        rates=op.get_attr("dilations"),
        padding=op.get_attr("padding").decode(),
    )
    rows = tf.einsum("bhwp,bhwo->bpo", patches, y.tensor)
    return padded(tf.reshape(rows, [x.shape[0], *shape]), y.start, y.vectors)


@batches("AvgPool", "AvgPool3D", "ResizeBilinear", "ResizeNearestNeighbor")
def example_by_example(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """A map of each example for itself: vectors are folded into the batch."""
    value, *rest = values
    if isinstance(value, Diagonal) and value.axis == 0:
        return [value._replace(tensor=run(op, [value.tensor, *rest])[0])]
    value = dense(value)
    return [_unfolded(run(op, [_folded(value), *rest])[0], value, count)]


@batches("AvgPoolGrad", "AvgPool3DGrad")
def average_back(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """The transpose of average pooling, example by example."""
    shape, value = constant(values[0]).tolist(), values[1]
    if isinstance(value, Diagonal) and value.axis == 0:
        return [value._replace(tensor=run(op, [shape, value.tensor])[0])]
    value = dense(value)
    back = run(op, [[shape[0] * count, *shape[1:]], _folded(value)])[0]
    return [_unfolded(tf.ensure_shape(back, [shape[0] * count, *shape[1:]]), value, count)]


@batches("Cross")
def cross_product(op: tf.Operation, values: list[Value], count: int) -> list[Value]:
    """The product of vectors of three numbers, along the last axis."""
    plain = [moved(v, 0) if isinstance(v, Batched) else v for v in map(dense, values)]
    tensors, axis = together(plain, count)
    return [Batched(run(op, tensors)[0], axis)]
