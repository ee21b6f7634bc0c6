"""MLHF: training networks with curvature, and learning how to do it.

Names are loaded when they are first used, and TensorFlow with the first that needs it: neither
`from mlhf import replay` nor a command's help waits for it.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import custom_op as custom_op
    import replay as replay
    import train_val as train_val
    from mlhf.kinds import KINDS, kinds_of_model, resolve_kinds
    from mlhf.meta_optimizer.meta_hessian_free import MetaHessianFree
    from mlhf.meta_optimizer.meta_muon import MetaMuon, MetaMuonState
    from mlhf.meta_optimizer.rule import MetaState
    from mlhf.meta_optimizer.weights_file import names as pretrained_names
    from mlhf.meta_training.backpropagation import meta_train
    from mlhf.meta_training.controller_evolution import evolve_controller
    from mlhf.meta_training.evolution import evolve
    from mlhf.meta_training.steps import MetaTraining
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
    from mlhf.runs.memory import keep_freed_memory
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
    "MetaMuon",
    "MetaMuonState",
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
    "evolve_controller",
    "get_model_state",
    "get_parameters",
    "keep_freed_memory",
    "kinds_of_model",
    "meta_train",
    "minimize",
    "population_statistics",
    "pretrained_names",
    "resolve_kinds",
    "set_model_state",
    "set_parameters",
]

# The module of each name above, in this package, and what it is called there.
_HOMES = {
    "AMUSE": "optimizers.gradient_methods.AMUSE",
    "CG_REASONS": "optimizers.conjugate_gradient.REASONS",
    "CurvatureMuon": "optimizers.curvature_muon.CurvatureMuon",
    "CurvatureMuonState": "optimizers.curvature_muon.CurvatureMuonState",
    "FirstOrder": "optimizers.gradient_methods.FirstOrder",
    "HessianFree": "optimizers.hessian_free.HessianFree",
    "HessianFreeState": "optimizers.hessian_free.HessianFreeState",
    "KFAC": "optimizers.kfac.KFAC",
    "KFACState": "optimizers.kfac.KFACState",
    "KINDS": "kinds.KINDS",
    "L2": "objective.L2",
    "LM_METHODS": "optimizers.least_squares.levenberg_marquardt.METHODS",
    "LevenbergMarquardt": "optimizers.least_squares.levenberg_marquardt.LevenbergMarquardt",
    "LevenbergMarquardtState": "optimizers.least_squares.levenberg_marquardt.LevenbergMarquardtState",  # noqa: E501
    "MartensHessianFree": "optimizers.martens_hessian_free.MartensHessianFree",
    "MetaHessianFree": "meta_optimizer.meta_hessian_free.MetaHessianFree",
    "MetaMuon": "meta_optimizer.meta_muon.MetaMuon",
    "MetaMuonState": "meta_optimizer.meta_muon.MetaMuonState",
    "MetaState": "meta_optimizer.rule.MetaState",
    "MetaTraining": "meta_training.steps.MetaTraining",
    "Minimization": "minimization.minimize.Minimization",
    "Muon": "optimizers.gradient_methods.Muon",
    "NystromPreconditioner": "optimizers.preconditioners.choice.NystromPreconditioner",
    "Objective": "objective.Objective",
    "ObjectiveSum": "objective.ObjectiveSum",
    "Prodigy": "optimizers.gradient_methods.Prodigy",
    "SOAP": "optimizers.gradient_methods.SOAP",
    "Schedule": "optimizers.schedule.Schedule",
    "ScheduleFreeAdamW": "optimizers.gradient_methods.ScheduleFreeAdamW",
    "Solution": "optimizers.conjugate_gradient.Solution",
    "Step": "optimizers.step.Step",
    "Task": "task.Task",
    "conjugate_gradient": "optimizers.conjugate_gradient.conjugate_gradient",
    "evolve": "meta_training.evolution.evolve",
    "evolve_controller": "meta_training.controller_evolution.evolve_controller",
    "get_model_state": "models.keras_models.get_model_state",
    "get_parameters": "models.keras_models.get_parameters",
    "keep_freed_memory": "runs.memory.keep_freed_memory",
    "kinds_of_model": "kinds.kinds_of_model",
    "meta_train": "meta_training.backpropagation.meta_train",
    "minimize": "minimization.minimize.minimize",
    "population_statistics": "models.moving_statistics.population_statistics",
    "pretrained_names": "meta_optimizer.weights_file.names",
    "resolve_kinds": "kinds.resolve_kinds",
    "set_model_state": "models.keras_models.set_model_state",
    "set_parameters": "models.keras_models.set_parameters",
}

# The wheel holds these folders inside this one; in a clone they lie beside it.
if not (Path(__file__).parent / "custom_op").is_dir():
    from mlhf import clone

    clone.adopt_folders()


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        module, _, attribute = home.rpartition(".")
        value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        globals()[name] = value
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
