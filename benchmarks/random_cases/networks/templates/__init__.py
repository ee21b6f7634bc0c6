"""The operations that random networks are made of; importing this package registers them."""

from benchmarks.random_cases.networks.templates import (
    arithmetic,
    elementwise,
    indexing,
    layers,
    shapes,
)
from benchmarks.random_cases.networks.templates.base import TEMPLATES

__all__ = ["TEMPLATES", "arithmetic", "elementwise", "indexing", "layers", "shapes"]
