"""Hypergradients: the gradient of a validation loss through training, by every known method."""

from mlhf.hypergrad import linear_solvers, plots, projections
from mlhf.hypergrad.batches import Minibatches
from mlhf.hypergrad.determinism import NotDeterministicError
from mlhf.hypergrad.drmad import DrmadDivergedWarning, drmad
from mlhf.hypergrad.dynamics import Dynamics, GradientDescent
from mlhf.hypergrad.dynamics_adam import Adam
from mlhf.hypergrad.dynamics_momentum import Momentum
from mlhf.hypergrad.estimate import Cost, Estimate, estimate
from mlhf.hypergrad.fixed_point import FixedPointRangeError
from mlhf.hypergrad.forward import forward
from mlhf.hypergrad.guards import DivergedError
from mlhf.hypergrad.hyper_optimizer import HyperOptimizer, read_records
from mlhf.hypergrad.implicit import implicit
from mlhf.hypergrad.information_buffer import quantize_decay
from mlhf.hypergrad.keras_losses import keras_losses
from mlhf.hypergrad.problem import Problem
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.reverse import reverse
from mlhf.hypergrad.reversible import reversible
from mlhf.hypergrad.rtho import rtho
from mlhf.hypergrad.several import several
from mlhf.hypergrad.sharing import share
from mlhf.hypergrad.train import train
from mlhf.hypergrad.traps import softmax_cross_entropy
from mlhf.hypergrad.truncated import truncated

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
