"""R-forward rules, by family; importing this package registers them."""

from custom_op.rules import (
    arithmetic,
    average_pooling,
    convolutions,
    cumulative,
    elementwise,
    indexing,
    lists,
    max_pooling_variants,
    mended_gradients,
    normalization,
    pooling,
    products,
    reductions,
    resampling,
    shapes,
    softmax,
)

__all__ = [
    "arithmetic",
    "average_pooling",
    "convolutions",
    "cumulative",
    "elementwise",
    "indexing",
    "lists",
    "max_pooling_variants",
    "mended_gradients",
    "normalization",
    "pooling",
    "products",
    "reductions",
    "resampling",
    "shapes",
    "softmax",
]
