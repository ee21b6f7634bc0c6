"""Kernels as matrices, and their orthogonalization by Newton-Schulz iterations (Jordan 2024).

With X = U Σ Vᵀ, an iteration with the coefficients a, b, c is

    X ← a X + b X (Xᵀ X) + c X (Xᵀ X)²,

which leaves U and V and takes each singular value σ to a σ + b σ³ + c σ⁵. From ‖X‖_F = 1, five
iterations with the usual coefficients bring all but the smallest singular values to between 0.68
and 1.13.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import structures
from mlhf import kinds

# The quintic whose slope at 0 is large: small singular values grow fast.
QUINTIC = (3.4445, -4.7750, 2.0315)

# A matrix is tall enough for iterations on its Gram matrix to cost less if it has so many times as
# many rows as columns: 2 m n² + 17 n³ multiplications in the place of 10 m n² + 5 n³.
_TALL = 1.5

# Parameters that are no maps between features, by the last part of their paths: those of any rank,
# since a GRU's bias has two axes.
_VECTORS = r"bias|gamma|beta|scale|offset|b|.*token|.*seed.*"
_EMBEDDINGS = r"embed"
# The projections of attention, [features, heads, size of a head]; other kernels end in the outputs.
_ONE_INPUT_AXIS = r"query|key|value"


class Matrix(NamedTuple):
    """A tensor of some shape read as a matrix [rows, columns], its last axes the columns."""

    shape: tuple[int, ...]
    rows: int
    columns: int

    @property
    def sides(self) -> tuple[int, int]:
        """The longer and the shorter side."""
        return max(self.rows, self.columns), min(self.rows, self.columns)


def as_matrix(tensor: tf.Tensor, input_axes: int | None = None) -> tf.Tensor:
    """Returns a kernel as a matrix [rows, columns]: from inputs to outputs.

    Args:
      tensor: A tensor of static shape and rank 2 at least, such as a convolution's kernel
        [height, width, in, out], which becomes [height · width · in, out].
      input_axes: The number of leading axes that are rows; by default all but the last.

    Returns:
      The matrix; `tf.reshape(matrix, tensor.shape)` is the way back.
    """
    rows = math.prod(tensor.shape[: -1 if input_axes is None else input_axes])
    return tf.reshape(tensor, [rows, -1])


def matrices(parameters: Any, excluded: Collection[str] = ()) -> list[Matrix | None]:
    """Returns how each parameter is read as a matrix; None for those that are not orthogonalized.

    Not orthogonalized are embeddings (paths with `embed`), biases, scales and the like, whatever
    their rank, and tensors with a side of one entry as a matrix, such as the kernels of depthwise
    convolutions.

    Args:
      parameters: A structure of tensors of static shape.
      excluded: More parameters that are not to be orthogonalized: paths or whole parts of them
        (`"logits/kernel"`, `"logits"`).

    Returns:
      A list in the order of `tf.nest.flatten`.

    Raises:
      ValueError: If a name in `excluded` is part of no path.
    """
    paths = structures.leaf_names(parameters)
    excluded = [_as_now(name, paths) for name in excluded]
    unknown = [name for name in excluded if not any(_is_part(name, path) for path in paths)]
    if unknown:
        raise ValueError(
            f"Expected excluded= to name parameters, or parts of their paths, among {paths}, got "
            f"{sorted(unknown)} too."
        )
    return [
        None if any(_is_part(name, path) for name in excluded) else _matrix(path, leaf)
        for path, leaf in zip(paths, tf.nest.flatten(parameters), strict=True)
    ]


def _as_now(name: str, paths: Sequence[str]) -> str:
    """Returns a name without that of its model, if only so it is part of a path.

    Keras takes it out of the paths when it loads a model.
    """
    rest = name.partition("/")[2]
    for given in (name, rest):
        if given and any(_is_part(given, path) for path in paths):
            return given
    return name


def _is_part(name: str, path: str) -> bool:
    return f"/{name}/" in f"/{path}/"


def _matrix(path: str, leaf: Any) -> Matrix | None:
    shape = tuple(leaf.shape)
    *layers, name = path.lower().split("/")
    kind = kinds.kind_of_path(path) or ""
    if (
        len(shape) < 2
        or not kind.endswith("kernel")
        and (kind or re.fullmatch(_VECTORS, name) or re.search(_EMBEDDINGS, path.lower()))
    ):
        return None
    one_axis = len(shape) == 3 and layers and re.fullmatch(_ONE_INPUT_AXIS, layers[-1])
    rows = math.prod(shape[: 1 if one_axis else -1])
    columns = math.prod(shape) // rows if rows else 0
    return None if min(rows, columns) < 2 else Matrix(shape, rows, columns)


def orthogonalize_all(
    tensors: Sequence[tf.Tensor],
    forms: Sequence[Matrix | None],
    iterations: int = 5,
    coefficients: Sequence[float] = QUINTIC,
) -> list[tf.Tensor]:
    """Returns tensors with those that are matrices orthogonalized, in their own shapes.

    Matrices of one shape are stacked and iterated on at once.

    Args:
      tensors: The tensors, floating and of static shapes.
      forms: Their forms as matrices, as from `matrices`; None leaves a tensor as it is.
      iterations: The number of Newton-Schulz iterations.
      coefficients: The coefficients a, b, c.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for place, form in enumerate(forms):
        if form is not None:
            groups.setdefault((form.rows, form.columns), []).append(place)
    results = list(tensors)
    for (rows, columns), places in groups.items():
        stacked = tf.stack([tf.reshape(tensors[place], [rows, columns]) for place in places])
        made = tf.unstack(orthogonalize(stacked, iterations, coefficients))
        for place, matrix in zip(places, made, strict=True):
            results[place] = tf.reshape(matrix, tensors[place].shape)
    return results


def orthogonalize(
    matrix: tf.Tensor, iterations: int = 5, coefficients: Sequence[float] = QUINTIC
) -> tf.Tensor:
    """Returns U S Vᵀ for a matrix U Σ Vᵀ, with S close to 1 except where Σ is very small.

    A tall matrix is multiplied once by a polynomial in its Gram matrix, which is the same in
    exact arithmetic and a quarter of the work; in float32 the results differ by up to 5e-4 in the
    spectral norm.

    Args:
      matrix: A floating tensor [..., rows, columns] of static shape. Zero stays zero.
      iterations: The number of iterations, at least 0.
      coefficients: The coefficients a, b, c of the quintic.

    Returns:
      A tensor of the matrix's shape and dtype.
    """
    rows, columns = matrix.shape[-2:]
    wide = rows < columns
    x = tf.linalg.matrix_transpose(matrix) if wide else matrix
    # In units of the largest entry first, so that squares neither over- nor underflow.
    x = _divided(x, tf.reduce_max(tf.abs(x), [-2, -1], True))
    x = _divided(x, tf.norm(x, axis=[-2, -1], keepdims=True))
    iterate = _by_gram if max(rows, columns) >= _TALL * min(rows, columns) else _directly
    if _rounds_products():
        iterate = _directly
    x = iterate(x, iterations, coefficients)
    return tf.linalg.matrix_transpose(x) if wide else x


def _divided(x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    return x / tf.where(scale == 0, tf.ones_like(scale), scale)


def _directly(x: tf.Tensor, iterations: int, coefficients: Sequence[float]) -> tf.Tensor:
    a, b, c = coefficients
    for _ in range(iterations):
        gram = tf.matmul(x, x, transpose_a=True)
        x = a * x + tf.matmul(x, b * gram + c * tf.matmul(gram, gram))
    return x


def _by_gram(x: tf.Tensor, iterations: int, coefficients: Sequence[float]) -> tf.Tensor:
    """All iterates are X times a polynomial in A = Xᵀ X; with P = a I + b A + c A², A ← A P²."""
    if iterations == 0:
        return x
    a, b, c = coefficients
    identity = tf.eye(x.shape[-1], dtype=x.dtype)
    gram = tf.matmul(x, x, transpose_a=True)
    product = None
    for left in reversed(range(iterations)):
        factor = a * identity + b * gram + c * tf.matmul(gram, gram)
        product = factor if product is None else tf.matmul(product, factor)
        if left:
            gram = tf.matmul(tf.matmul(gram, factor), factor)
            # Rounding's asymmetry would grow from iteration to iteration.
            gram = (gram + tf.linalg.matrix_transpose(gram)) / 2
    return tf.matmul(x, product)


def _rounds_products() -> bool:
    """Returns whether float32 products may be rounded to fewer bits (TF32 on a GPU).

    A Gram matrix rounded to 10 bits has negative eigenvalues, which iterations on it would enlarge.
    """
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    return bool(tf32 and tf.config.list_physical_devices("GPU"))
