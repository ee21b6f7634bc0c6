"""Pictures of traced computations and of their derivatives."""

from custom_op.drawing.picture import Picture, draw

__all__ = ["Picture", "draw"]
