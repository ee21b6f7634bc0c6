"""Hypergradients: the gradient of a validation loss through training, by every known method."""

from mlhf.hypergrad.batches import Minibatches
from mlhf.hypergrad.dynamics import Dynamics, GradientDescent
from mlhf.hypergrad.dynamics_adam import Adam
from mlhf.hypergrad.dynamics_momentum import Momentum
from mlhf.hypergrad.guards import DivergedError
from mlhf.hypergrad.problem import Problem
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.reverse import reverse
from mlhf.hypergrad.traps import softmax_cross_entropy

__all__ = [
    "Adam",
    "DivergedError",
    "Dynamics",
    "GradientDescent",
    "Minibatches",
    "Momentum",
    "Problem",
    "Result",
    "reverse",
    "softmax_cross_entropy",
]
