"""Families of equations, each with its points and a reference solution."""

from train_val.task_families.equations.evolution import allen_cahn, burgers, heat, inverse_heat
from train_val.task_families.equations.stationary import (
    helmholtz,
    poisson,
    poisson_5d,
    stiff_ode,
)

__all__ = [
    "allen_cahn",
    "burgers",
    "heat",
    "helmholtz",
    "inverse_heat",
    "poisson",
    "poisson_5d",
    "stiff_ode",
]
