"""Solvers for the linear system of an implicit hypergradient."""

from mlhf.hypergrad.linear_solvers.conjugate_gradient import ConjugateGradient
from mlhf.hypergrad.linear_solvers.fixed_point_iteration import FixedPoint
from mlhf.hypergrad.linear_solvers.gauss_newton import GaussNewton
from mlhf.hypergrad.linear_solvers.neumann import Neumann
from mlhf.hypergrad.linear_solvers.normal_equations import NormalEquations
from mlhf.hypergrad.linear_solvers.nystrom import Nystrom
from mlhf.hypergrad.linear_solvers.system import LinearSolveError, Solved, Solver, System

__all__ = [
    "ConjugateGradient",
    "FixedPoint",
    "GaussNewton",
    "LinearSolveError",
    "Neumann",
    "NormalEquations",
    "Nystrom",
    "Solved",
    "Solver",
    "System",
]
