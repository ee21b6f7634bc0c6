"""R-forward rules, by family; importing this package registers them."""

from custom_op.rules import arithmetic, elementwise, pooling, products, shapes

__all__ = ["arithmetic", "elementwise", "pooling", "products", "shapes"]
