"""Finding the operation whose result is not finite."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def name_not_finite(repeat: Callable[[], Any]) -> str:
    """Repeats a computation with every operation checked, and names one that is not finite.

    It runs as a graph first. The checks do not see what is compiled with XLA there, so if nothing
    is found it runs once more, operation by operation, which is slow.

    Args:
      repeat: A function that does the computation again, traced anew: a `tf.function` that was
        traced before keeps its unchecked operations.

    Returns:
      A sentence with the operation's type, its name, its shape and its inputs.
    """
    for eagerly in (False, True):
        tf.config.run_functions_eagerly(eagerly)
        tf.debugging.enable_check_numerics()
        try:
            repeat()
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            found = _read(str(error))
            if found is not None:
                return found
        finally:
            tf.debugging.disable_check_numerics()
            tf.config.run_functions_eagerly(False)
    return "Repeated with every operation checked, the computation was finite."


def _read(report: str) -> str | None:
    """Returns the sentence for TensorFlow's report of a check; None for any other report."""
    operation = re.search(r'output (\d+) of \S+(?: TF2| TF1)? op "([^"]+)"', report)
    if operation is None:
        return None
    if operation[2] == "Placeholder":
        text = "Not finite: an input of the computation"
    else:
        text = f"Not finite: the result of a {operation[2]}"
        node = re.search(r"\{\{node ([^}\s]+?)(?:/CheckNumerics\w*)?\}\}", report)
        if node is not None:
            text += f" ({node[1]})"
    shape = re.search(r"^\s*shape: (.+)$", report, re.MULTILINE)
    if shape is not None:
        text += f" of shape {shape[1]}"
    inputs = re.findall(r'^\s*\d+: Tensor\("([^":]+)', report, re.MULTILINE)
    if inputs:
        text += f", computed from {', '.join(inputs)}"
    return text + "."
