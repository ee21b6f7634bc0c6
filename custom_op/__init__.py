"""Exact derivatives of TensorFlow computations: R-forward, linearization, curvature products."""

from custom_op import losses, rules
from custom_op.checks import check_rule
from custom_op.fallback import NotDifferentiableError
from custom_op.gauss_newton import GaussNewton, gauss_newton
from custom_op.linearization import Linearization, jvp, linearize
from custom_op.registry import register_r_forward, supported_ops

__all__ = [
    "GaussNewton",
    "Linearization",
    "NotDifferentiableError",
    "check_rule",
    "gauss_newton",
    "jvp",
    "linearize",
    "losses",
    "register_r_forward",
    "rules",
    "supported_ops",
]
