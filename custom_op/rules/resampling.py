"""Rules for resizing and resampling images, which are linear in the image.

TensorFlow treats the gradients of its resizing kernels as constants. So each kernel and its
transpose are defined here as derivatives of each other.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from custom_op.fallback import NotDifferentiableError, refusal
from custom_op.linear_maps.held_gradients import custom_gradient
from custom_op.registry import LinearMap, register_r_forward, replay
from custom_op.tensorflow_internals import is_compiled

Map = Callable[[tf.Tensor], tf.Tensor]


def linear_pair(forward: Map, transpose: Map) -> Map:
    """Returns a linear map whose gradients of any order consist of it and its transpose.

    Args:
      forward: A linear map of one tensor.
      transpose: Its transpose.

    Returns:
      The differentiable map.
    """

    @custom_gradient
    def apply(values: tf.Tensor) -> tuple[tf.Tensor, Map]:
        return forward(values), lambda upstream: linear_pair(transpose, forward)(upstream)

    return apply


def _mode(op: tf.Operation) -> dict[str, bool]:
    return {name: op.get_attr(name) for name in ("align_corners", "half_pixel_centers")}


def _pair(op: tf.Operation, images: tf.Tensor, size: tf.Tensor) -> tuple[Map, Map]:
    """Returns the resizing of images to a size, in the mode of an operation, and its transpose."""
    kind = op.type.removesuffix("Grad")
    mode = _mode(op)
    shape, dtype = images.shape, images.dtype
    if kind == "ResizeNearestNeighbor":
        old = tf.shape(images)[1:3] if None in shape[1:3] else tf.constant(shape[1:3].as_list())

        def back(values: tf.Tensor) -> tf.Tensor:
            return tf.raw_ops.ResizeNearestNeighborGrad(grads=values, size=old, **mode)

    else:
        kernel = getattr(tf.raw_ops, f"{kind}Grad")
        # Only the shape and dtype of the image matter.
        like = tf.zeros(shape, dtype) if shape.is_fully_defined() else tf.zeros_like(images)

        def back(values: tf.Tensor) -> tf.Tensor:
            return kernel(grads=tf.cast(values, tf.float32), original_image=like, **mode)

    def resize(values: tf.Tensor) -> tf.Tensor:
        return getattr(tf.raw_ops, kind)(images=values, size=size, **mode)

    return resize, back


@register_r_forward("ResizeBilinear", "ResizeBicubic", "ResizeNearestNeighbor")
def resizing(op: tf.Operation) -> LinearMap:
    """The tangent is resized as the image is."""
    images, size = op.inputs
    if op.type == "ResizeNearestNeighbor" and is_compiled():
        return _choice_of_pixels(op, images, size)
    forward, back = _pair(op, images, size)
    return lambda t, _: linear_pair(forward, back)(t)


def _choice_of_pixels(op: tf.Operation, images: tf.Tensor, size: tf.Tensor) -> LinearMap:
    """Gathers nearest neighbors by their indices: XLA has no kernel for the transpose."""
    places = []
    for axis in (1, 2):
        pixels = tf.range(tf.shape(images)[axis], dtype=tf.int32)
        shape = [1, -1, 1, 1] if axis == 1 else [1, 1, -1, 1]
        target = tf.stack([size[0], 1] if axis == 1 else [1, size[1]])
        # In float32: float16 cannot represent the pixel indices of a large image.
        resized = tf.raw_ops.ResizeNearestNeighbor(
            images=tf.cast(tf.reshape(pixels, shape), tf.float32), size=target, **_mode(op)
        )
        places.append(tf.cast(tf.reshape(resized, [-1]), tf.int32))
    return lambda t, _: tf.gather(tf.gather(t, places[0], axis=1), places[1], axis=2)


@register_r_forward("ResizeBilinearGrad", "ResizeBicubicGrad")
def gradient_of_resizing(op: tf.Operation) -> LinearMap:
    """Linear in the upstream gradient; only the image's size matters."""
    upstream, images = op.inputs
    forward, back = _pair(op, images, tf.shape(upstream)[1:3])
    return lambda t, _: None if t is None else linear_pair(back, forward)(t)


@register_r_forward("ResizeNearestNeighborGrad")
def gradient_of_nearest_neighbours(op: tf.Operation) -> LinearMap:
    """Linear in the upstream gradient."""
    upstream, _ = op.inputs
    forward, back = _pair(op, op.outputs[0], tf.shape(upstream)[1:3])
    return lambda t, _: linear_pair(back, forward)(t)


@register_r_forward("ScaleAndTranslate")
def scaling_and_translating(op: tf.Operation) -> LinearMap:
    """Linear in the image; scale and translation must be constant."""
    images, size, scale, translation = op.inputs
    mode = {
        "kernel_type": op.get_attr("kernel_type").decode(),
        "antialias": op.get_attr("antialias"),
    }
    like = tf.zeros(tf.shape(images), tf.float32)

    def forward(values: tf.Tensor) -> tf.Tensor:
        return replay(op, [values, size, scale, translation])[0]

    def back(values: tf.Tensor) -> tf.Tensor:
        pulled = tf.raw_ops.ScaleAndTranslateGrad(
            grads=values, original_image=like, scale=scale, translation=translation, **mode
        )
        return tf.cast(pulled, images.dtype)

    def tangent_map(t: tf.Tensor, _: None, *moved: tf.Tensor | None) -> tf.Tensor:
        if any(tangent is not None for tangent in moved):
            raise NotDifferentiableError(
                refusal(op, "it is linear in the image only", "stop the gradient of the rest")
            )
        return linear_pair(forward, back)(t)

    return tangent_map


@register_r_forward("CropAndResize")
def cropping(op: tf.Operation) -> LinearMap:
    """Linear in the image; the boxes must be constant."""
    images, boxes, owners, size = op.inputs
    shape, dtype, method = tf.shape(images), images.dtype, op.get_attr("method")

    def crop(values: tf.Tensor) -> tf.Tensor:
        return replay(op, [values, boxes, owners, size])[0]

    def back(values: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.CropAndResizeGradImage(
            grads=values, boxes=boxes, box_ind=owners, image_size=shape, T=dtype, method=method
        )

    def tangent_map(t: tf.Tensor, moved: tf.Tensor | None, *_: None) -> tf.Tensor:
        if moved is not None:
            raise NotDifferentiableError(
                refusal(op, "it is linear in the image only", "stop the gradient of the boxes")
            )
        return linear_pair(crop, back)(t)

    return tangent_map
