"""Checks, before training, that a network which a user wrote returns a logit for each class."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def check_logits(model: Any, name: str, shape: tuple[int, ...], classes: int, dtype: str) -> None:
    """Refuses anything that is not a Keras model with logits [batch, classes] as its output.

    Args:
      model: The value that a function that builds networks returned.
      name: The name of that function, for the error's text.
      shape: The shape of an image.
      classes: The number of logits that is expected.
      dtype: The dtype of the images.

    Raises:
      TypeError: If it is not a Keras model.
      ValueError: If it is not built, does not take such images, or its outputs have another shape.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected {name} to return a built keras.Model, got {model!r} of the type "
            f"{type(model).__name__}."
        )
    if not model.built:
        raise ValueError(
            f"Expected {name} to return a built model, got one without variables: begin it with "
            f"keras.Input({shape}), or call it on a batch once."
        )
    try:
        found = model.compute_output_shape((2, *shape))
    except Exception:  # some models only know their shape in a call
        found = _called(model, name, shape, dtype)
    if not isinstance(found, tuple) or tuple(found) != (2, classes):
        text = str(found[1:]) if isinstance(found, tuple) else f"a structure, {found}"
        raise ValueError(
            f"Expected {name} to end in {classes} logits, one for each class of the data, got "
            f"outputs of the shape {text} for an image of {shape}: end it in "
            "keras.layers.Dense(classes)."
        )


def _called(model: keras.Model, name: str, shape: tuple[int, ...], dtype: str) -> Any:
    try:
        outputs = model(tf.zeros([2, *shape], dtype))
    except Exception as error:
        raise ValueError(
            f"Expected {name} to return a network of images of the shape {shape}, got one that "
            f"does not take them: {str(error).splitlines()[0]}"
        ) from error
    return tuple(outputs.shape) if tf.is_tensor(outputs) else tf.nest.map_structure(type, outputs)
