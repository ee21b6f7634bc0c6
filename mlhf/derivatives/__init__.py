"""Derivatives of a network by its inputs, for objectives that contain an equation."""

from mlhf.derivatives.partial_derivatives import Laplacian, laplacian, partials, taylor

__all__ = ["Laplacian", "laplacian", "partials", "taylor"]
