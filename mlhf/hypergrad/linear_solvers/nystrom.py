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
    result as good as r rows represent A. The residual that is reported is that of A + ρ I.
    """

    def __init__(self, rank: int = 20, rho: float = 1e-2, seed: int = 0):
        """Sets how many rows of A are used.

        Args:
          rank: r, the number of rows; with P of them the solution is that of A + ρ I itself.
          rho: ρ, positive.
          seed: The seed of the choice of rows.

        Raises:
          ValueError: If a number is out of its range.
        """
        self.rank = check_count("rank", rank)
        self.rho = check_number("rho", rho, above=0)
        self.seed = check_count("seed", seed, at_least=0)

    def solve(self, system: System, b: tf.Tensor, x0: tf.Tensor | None = None) -> Solved:
        """See the base class; raises if the rows show A + ρ I to be indefinite. Ignores `x0`."""
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
                systems.refuse_indefinite(type(self).__name__, lowest + rho, rho)
        right = b.numpy().astype(np.float64)
        # Rows of zeros, such as those of dead units, make it singular, which least squares allows.
        inner = np.linalg.lstsq(M + C @ C.T / rho, C @ right, rcond=None)[0]
        x = tf.constant(right / rho - C.T @ inner / rho**2, b.dtype)
        return systems.report(system.damped(rho), b, x, rank, "all rows used")
