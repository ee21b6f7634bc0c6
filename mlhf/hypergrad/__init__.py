"""Hypergradients: the gradient of a validation loss through training, by every known method."""

from mlhf.hypergrad import linear_solvers
from mlhf.hypergrad.batches import Minibatches
from mlhf.hypergrad.determinism import NotDeterministicError
from mlhf.hypergrad.differentiability import softmax_cross_entropy
from mlhf.hypergrad.dynamics.adam import Adam
from mlhf.hypergrad.dynamics.base import Dynamics, GradientDescent
from mlhf.hypergrad.dynamics.momentum import Momentum
from mlhf.hypergrad.exact_arithmetic.fixed_point import FixedPointRangeError
from mlhf.hypergrad.exact_arithmetic.information_buffer import quantize_decay
from mlhf.hypergrad.guards import DivergedError
from mlhf.hypergrad.keras_losses import keras_losses
from mlhf.hypergrad.methods.drmad import DrmadDivergedWarning, drmad
from mlhf.hypergrad.methods.estimate import Cost, Estimate, estimate
from mlhf.hypergrad.methods.forward import forward
from mlhf.hypergrad.methods.implicit import implicit
from mlhf.hypergrad.methods.multi_loss import several
from mlhf.hypergrad.methods.reverse import reverse
from mlhf.hypergrad.methods.reversible import reversible
from mlhf.hypergrad.methods.rtho import rtho
from mlhf.hypergrad.methods.train import train
from mlhf.hypergrad.methods.truncated import truncated
from mlhf.hypergrad.outer import plots, projections
from mlhf.hypergrad.outer.hyper_optimizer import HyperOptimizer
from mlhf.hypergrad.outer.records import read_records
from mlhf.hypergrad.outer.sharing import share
from mlhf.hypergrad.problem import Problem
from mlhf.hypergrad.result import Result

__all__ = [
    "Adam",
    "Cost",
    "DivergedError",
    "DrmadDivergedWarning",
    "Dynamics",
    "Estimate",
    "FixedPointRangeError",
    "GradientDescent",
    "HyperOptimizer",
    "Minibatches",
    "Momentum",
    "NotDeterministicError",
    "Problem",
    "Result",
    "drmad",
    "estimate",
    "forward",
    "implicit",
    "keras_losses",
    "linear_solvers",
    "plots",
    "projections",
    "quantize_decay",
    "read_records",
    "reverse",
    "reversible",
    "rtho",
    "several",
    "share",
    "softmax_cross_entropy",
    "train",
    "truncated",
]
