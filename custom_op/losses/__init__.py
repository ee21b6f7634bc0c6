"""Losses: the value, its gradient and its Hessian's products in the network's outputs."""

from custom_op.losses.base import Loss, MeanLoss
from custom_op.losses.evaluation import Evaluation
from custom_op.losses.poisson import Poisson
from custom_op.losses.registry import get, names, register_loss
from custom_op.losses.sigmoid import SigmoidCrossEntropy
from custom_op.losses.softmax import SoftmaxCrossEntropy
from custom_op.losses.squares import MeanSquaredError, SquaredError
from custom_op.losses.targets import Bounds

__all__ = [
    "Bounds",
    "Evaluation",
    "Loss",
    "MeanLoss",
    "MeanSquaredError",
    "Poisson",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "get",
    "names",
    "register_loss",
]

register_loss("softmax_cross_entropy", SoftmaxCrossEntropy())
register_loss("sigmoid_cross_entropy", SigmoidCrossEntropy())
register_loss("squared_error", SquaredError())
register_loss("mean_squared_error", MeanSquaredError())
register_loss("poisson", Poisson())
