"""Exact derivatives of TensorFlow computations: R-forward, linearization, curvature products."""

from custom_op import losses, rules
from custom_op.check_rule import check_rule
from custom_op.checkpoint import checkpoint
from custom_op.drawing import Picture, draw
from custom_op.fallback import NotDifferentiableError
from custom_op.linearization import Linearization, jvp, linearize
from custom_op.operators.dataset_operator import DatasetOperator
from custom_op.operators.fisher import EmpiricalFisher, Fisher, SampledFisher, fisher
from custom_op.operators.gauss_newton import GaussNewton, gauss_newton
from custom_op.operators.hessian import Hessian, hessian
from custom_op.operators.jacobian import Jacobian, jacobian
from custom_op.operators.operator import CurvatureOperator
from custom_op.registry import register_r_forward, supported_ops
from custom_op.spectrum.diagonal import diagonal
from custom_op.spectrum.eigenvalues import Eigenpairs, eigenpairs
from custom_op.spectrum.estimate import Estimate
from custom_op.spectrum.spectral_density import SpectralDensity, spectral_density
from custom_op.spectrum.trace import trace

__all__ = [
    "CurvatureOperator",
    "DatasetOperator",
    "Eigenpairs",
    "EmpiricalFisher",
    "Estimate",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Jacobian",
    "Linearization",
    "NotDifferentiableError",
    "Picture",
    "SampledFisher",
    "SpectralDensity",
    "check_rule",
    "checkpoint",
    "diagonal",
    "draw",
    "eigenpairs",
    "fisher",
    "gauss_newton",
    "hessian",
    "jacobian",
    "jvp",
    "linearize",
    "losses",
    "register_r_forward",
    "rules",
    "spectral_density",
    "supported_ops",
    "trace",
]
