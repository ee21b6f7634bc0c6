"""MLHF: training networks with curvature, and learning how to do it."""

from mlhf.kinds import KINDS, kinds_of_model, resolve_kinds
from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
from mlhf.meta_optimizer.rule import MetaState
from mlhf.meta_optimizer.weights_file import names as pretrained_names
from mlhf.meta_training.backpropagation import meta_train
from mlhf.meta_training.evolution import evolve
from mlhf.meta_training.result import MetaTraining
from mlhf.minimization.minimize import Minimization, minimize
from mlhf.models.keras_models import (
    get_model_state,
    get_parameters,
    set_model_state,
    set_parameters,
)
from mlhf.models.moving_statistics import population_statistics
from mlhf.objective import L2, Objective, ObjectiveSum
from mlhf.optimizers.conjugate_gradient import REASONS as CG_REASONS
from mlhf.optimizers.conjugate_gradient import Solution, conjugate_gradient
from mlhf.optimizers.curvature_muon import CurvatureMuon, CurvatureMuonState
from mlhf.optimizers.gradient_methods import (
    AMUSE,
    SOAP,
    FirstOrder,
    Muon,
    Prodigy,
    ScheduleFreeAdamW,
)
from mlhf.optimizers.hessian_free import HessianFree, HessianFreeState
from mlhf.optimizers.kfac import KFAC, KFACState
from mlhf.optimizers.least_squares.levenberg_marquardt import METHODS as LM_METHODS
from mlhf.optimizers.least_squares.levenberg_marquardt import (
    LevenbergMarquardt,
    LevenbergMarquardtState,
)
from mlhf.optimizers.martens_hessian_free import MartensHessianFree
from mlhf.optimizers.preconditioners.choice import NystromPreconditioner
from mlhf.optimizers.schedule import Schedule
from mlhf.optimizers.step import Step
from mlhf.task import Task

__version__ = "0.2.0.dev0"

__all__ = [
    "AMUSE",
    "CG_REASONS",
    "CurvatureMuon",
    "CurvatureMuonState",
    "FirstOrder",
    "HessianFree",
    "HessianFreeState",
    "KFAC",
    "KFACState",
    "KINDS",
    "L2",
    "LM_METHODS",
    "LevenbergMarquardt",
    "LevenbergMarquardtState",
    "MartensHessianFree",
    "MetaHessianFree",
    "MetaState",
    "MetaTraining",
    "Minimization",
    "Muon",
    "NystromPreconditioner",
    "Objective",
    "ObjectiveSum",
    "Prodigy",
    "SOAP",
    "ScheduleFreeAdamW",
    "Schedule",
    "Solution",
    "Step",
    "Task",
    "conjugate_gradient",
    "evolve",
    "get_model_state",
    "get_parameters",
    "kinds_of_model",
    "meta_train",
    "minimize",
    "population_statistics",
    "pretrained_names",
    "resolve_kinds",
    "set_model_state",
    "set_parameters",
]
