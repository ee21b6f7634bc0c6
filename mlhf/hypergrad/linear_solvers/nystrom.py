"""The Nyström approximation of the inverse Hessian (Hataya and Yamada 2023, arXiv 2302.09726)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_count, check_number
from mlhf.hypergrad.linear_solvers import system as systems
from mlhf.hypergrad.linear_solvers.system import Solved, Solver, System


class Nystrom(Solver):
    """Solves (Cᵀ M⁻¹ C + ρ I) x = b, with C [r, P] random rows of A and M [r, r] their crossing.

    By Woodbury's identity, x = b/ρ - Cᵀ (M + C Cᵀ/ρ)⁻¹ C b / ρ²: r products, no iteration, and a
    result as good as r rows tell A. The residual that is reported is the one of A + ρ I.
    """

    def __init__(self, rank: int = 20, rho: float = 1e-2, seed: int = 0):
        """Sets how much of A is looked at.

        Args:
          rank: r, the number of rows; P of them give the solution of A + ρ I itself.
          rho: ρ, positive.
          seed: Chooses the rows.

        Raises:
          ValueError: If one is out of its range.
        """
        self.rank = check_count("rank", rank)
        self.rho = check_number("rho", rho, above=0)
        self.seed = check_count("seed", seed, at_least=0)

    def solve(self, system: System, b, x0=None) -> Solved:
        """See the base class; refuses rows that show A + ρ I to be indefinite. No `x0`."""
        del x0
        solved = systems.zero(b)
        if solved is not None:
            return solved
        size = int(b.shape[0])
        rank, rho = min(self.rank, size), self.rho
        rows = np.random.default_rng(self.seed).choice(size, rank, replace=False)
        unit = (tf.one_hot(row, size, dtype=b.dtype) for row in rows)
        transposed = system.transposed or system.matvec
        C = np.stack([transposed(e).numpy() for e in unit]).astype(np.float64)
        M = C[:, rows]
        if system.transposed is None:
            M = (M + M.T) / 2
            lowest = float(np.linalg.eigvalsh(M)[0])
            if lowest < -rho:
                raise systems.indefinite(type(self).__name__, lowest + rho, rho)
        right = b.numpy().astype(np.float64)
        # Rows of zeros, such as those of dead units, make it singular: least squares allows it.
        inner = np.linalg.lstsq(M + C @ C.T / rho, C @ right, rcond=None)[0]
        x = tf.constant(right / rho - C.T @ inner / rho**2, b.dtype)
        return systems.report(system.damped(rho), b, x, rank, "all rows used")
