"""Exact derivatives of TensorFlow computations: R-forward, linearization, curvature products."""

from custom_op import losses, rules
from custom_op.checks import check_rule
from custom_op.dataset_operator import DatasetOperator
from custom_op.fallback import NotDifferentiableError
from custom_op.fisher import EmpiricalFisher, Fisher, SampledFisher, fisher
from custom_op.gauss_newton import GaussNewton, gauss_newton
from custom_op.hessian import Hessian, hessian
from custom_op.jacobian import Jacobian, jacobian
from custom_op.linearization import Linearization, jvp, linearize
from custom_op.operator import CurvatureOperator
from custom_op.registry import register_r_forward, supported_ops

__all__ = [
    "CurvatureOperator",
    "DatasetOperator",
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Jacobian",
    "Linearization",
    "NotDifferentiableError",
    "SampledFisher",
    "check_rule",
    "fisher",
    "gauss_newton",
    "hessian",
    "jacobian",
    "jvp",
    "linearize",
    "losses",
    "register_r_forward",
    "rules",
    "supported_ops",
]
