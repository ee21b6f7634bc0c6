"""MLHF: training networks with curvature, and learning how to do it."""

from mlhf.evolution import evolve
from mlhf.first_order import FirstOrder
from mlhf.hessian_free import HessianFree, HessianFreeState
from mlhf.keras_models import (
    get_model_state,
    get_parameters,
    set_model_state,
    set_parameters,
)
from mlhf.kfac import KFAC, KFACState
from mlhf.kinds import KINDS, kinds_of_model, resolve_kinds
from mlhf.martens_hessian_free import MartensHessianFree
from mlhf.meta_file import names as pretrained_names
from mlhf.meta_hessian_free import MetaHessianFree
from mlhf.meta_run import MetaTraining
from mlhf.meta_training import meta_train
from mlhf.moving_statistics import population_statistics
from mlhf.objective import L2, Objective
from mlhf.preconditioned_cg import REASONS as CG_REASONS
from mlhf.preconditioned_cg import Solution, conjugate_gradient
from mlhf.proposal import MetaState
from mlhf.step import Step
from mlhf.task import Task

__all__ = [
    "CG_REASONS",
    "FirstOrder",
    "HessianFree",
    "HessianFreeState",
    "KFAC",
    "KFACState",
    "KINDS",
    "L2",
    "MartensHessianFree",
    "MetaHessianFree",
    "MetaState",
    "MetaTraining",
    "Objective",
    "Solution",
    "Step",
    "Task",
    "conjugate_gradient",
    "evolve",
    "get_model_state",
    "get_parameters",
    "kinds_of_model",
    "meta_train",
    "population_statistics",
    "pretrained_names",
    "resolve_kinds",
    "set_model_state",
    "set_parameters",
]
