"""What an optimizer steps on: a network, a loss, a batch; or a weighted sum of such terms."""

from mlhf.objective.objective import LinearizedObjective, Objective, Term
from mlhf.objective.objective_sum import ObjectiveSum
from mlhf.objective.regularizers import L2, Regularizer
from mlhf.objective.vectors import inner

__all__ = [
    "L2",
    "LinearizedObjective",
    "Objective",
    "ObjectiveSum",
    "Regularizer",
    "Term",
    "inner",
]
