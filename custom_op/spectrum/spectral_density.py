"""The density of a curvature operator's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import tqdm

from custom_op.operators.operator import CurvatureOperator
from custom_op.spectrum.estimate import Estimate


class SpectralDensity(NamedTuple):
    """The density of an operator's eigenvalues, with integral 1.

    Attributes:
      nodes: The nodes of each probe's quadrature, [probes, steps].
      weights: The weights of the nodes, [probes, steps]; each probe's sum to 1.
    """

    nodes: np.ndarray
    weights: np.ndarray

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Estimates the mean of a function over the eigenvalues, tr f(A) / P.

        Args:
          function: An elementwise function of an array.

        Returns:
          The mean and its standard error (due to the random probes; NaN for a single probe).
        """
        samples = np.sum(self.weights * function(self.nodes), axis=1)
        count = len(samples)
        error = samples.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
        return Estimate(float(samples.mean()), float(error))

    def density(self, grid: np.ndarray, width: float | None = None) -> np.ndarray:
        """Returns the density, each node broadened to a Gaussian.

        Args:
          grid: The points at which to evaluate the density, [n].
          width: The Gaussians' standard deviation; by default 1% of the nodes' range.

        Returns:
          [n], non-negative, with integral 1.

        Raises:
          ValueError: If the width is not positive.
        """
        return self._densities(grid, self._width(width)).mean(0)

    def plot(
        self, path: str | Path | None = None, *, width: float | None = None, title: str = ""
    ) -> Any:
        """Plots the density on a logarithmic axis, with the range over the probes.

        Args:
          path: The file for the picture; its ending gives the format.
          width: The Gaussians' standard deviation; by default 1% of the nodes' range.
          title: The plot's title.

        Returns:
          The Matplotlib figure.

        Raises:
          ValueError: If the width is not positive.
        """
        from matplotlib.figure import Figure

        width = self._width(width)
        seen = self.nodes[self.weights > 1e-12]
        grid = np.linspace(seen.min() - 5 * width, seen.max() + 5 * width, 1000)
        each = self._densities(grid, width)
        density = each.mean(0)
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        # A density below a millionth of the largest is shown as that.
        floor = 1e-6 * density.max()
        if len(each) > 1:
            label = f"range of {len(each)} probes"
            low, high = np.maximum(each.min(0), floor), np.maximum(each.max(0), floor)
            axes.fill_between(grid, low, high, alpha=0.3, lw=0, label=label)
        axes.semilogy(grid, np.maximum(density, floor), lw=1.5, label="density")
        axes.set_ylim(floor, 3 * each.max())
        axes.set_xlim(grid[0], grid[-1])
        axes.set_xlabel("eigenvalue")
        axes.set_ylabel(f"density (Gaussians of width {width:.2g})")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        if title:
            axes.set_title(title)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def _width(self, width: float | None) -> float:
        if width is None:
            seen = self.nodes[self.weights > 1e-12]
            return max(0.01 * float(np.ptp(seen)), 1e-6 * float(np.abs(seen).max()), 1e-300)
        if width <= 0:
            raise ValueError(f"Expected a positive width, got {width}.")
        return width

    def _densities(self, grid: np.ndarray, width: float) -> np.ndarray:
        """Returns the density by each probe, [probes, n]."""
        grid = np.asarray(grid, np.float64)
        result = np.zeros((len(self.nodes), len(grid)))
        # Node by node: all at once would take probes * steps * n numbers.
        for probe, (nodes, weights) in enumerate(zip(self.nodes, self.weights, strict=True)):
            for node, weight in zip(nodes, weights, strict=True):
                result[probe] += weight * np.exp(-0.5 * np.square((grid - node) / width))
        return result / (width * np.sqrt(2 * np.pi))


def spectral_density(
    operator: CurvatureOperator,
    probes: int = 8,
    steps: int = 64,
    *,
    seed: int = 0,
    progress: bool = False,
) -> SpectralDensity:
    """Estimates the density of the eigenvalues by stochastic Lanczos quadrature.

    From each random unit vector v, `steps` Lanczos iterations give a tridiagonal matrix whose
    eigenvalues and squared first eigenvector components are the nodes and weights of the Gauss
    quadrature of <v, f(A) v> (Golub and Welsch 1969; Ghorbani, Krishnan and Xiao 2019, algorithm
    1), whose mean over v is tr f(A) / P. Vectors are reorthogonalized against all earlier ones.

    Args:
      operator: An operator made outside a `tf.function`, with parameters of float32 or float64.
      probes: The number of random vectors, which determines the accuracy.
      steps: The number of Lanczos iterations per probe, at most P, which determines the
        resolution. `steps` vectors are kept; probes · steps products are computed.
      seed: The seed of the random vectors.
      progress: Whether to show a progress bar.

    Returns:
      The density, with `density(grid)`, `mean(function)` and `plot(path)`.

    Raises:
      ValueError: If probes or steps are less than 1.
      TypeError: If the parameters have several dtypes, or one that NumPy does not have.
    """
    if probes < 1 or steps < 1:
        raise ValueError(f"Expected at least 1 probe and 1 step, got {probes} and {steps}.")
    adapted, size = operator.to_scipy(), operator.shape[0]
    random, steps = np.random.default_rng(seed), min(steps, size)
    nodes, weights = np.zeros((probes, steps)), np.zeros((probes, steps))
    with tqdm.tqdm(
        total=probes * steps, disable=not progress, unit="product", dynamic_ncols=True
    ) as bar:
        for probe in range(probes):
            start = random.standard_normal(size).astype(adapted.dtype)
            diagonal, beside = _lanczos(adapted, start, steps, bar.update)
            values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside)
            # An invariant subspace ends the iteration early; the remaining nodes have no weight.
            nodes[probe] = values[-1]
            nodes[probe, : len(values)] = values
            weights[probe, : len(values)] = np.square(vectors[0])
    return SpectralDensity(nodes, weights)


def _lanczos(
    matrix: Any, start: np.ndarray, steps: int, done: Callable[[], Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the diagonal and the off-diagonal of the tridiagonal matrix VᵀAV."""
    basis = np.zeros((steps, len(start)), start.dtype)
    basis[0] = start / np.linalg.norm(start)
    diagonal, beside = [], []
    for k in range(steps):
        product = matrix @ basis[k]
        done()
        diagonal.append(float(product @ basis[k]))
        length = np.linalg.norm(product)
        # Twice is enough (Parlett 1998, section 6.9).
        for _ in range(2):
            product = product - basis[: k + 1].T @ (basis[: k + 1] @ product)
        remaining = np.linalg.norm(product)
        if k + 1 == steps or remaining <= 10 * np.finfo(start.dtype).eps * length:
            break
        beside.append(float(remaining))
        basis[k + 1] = product / remaining
    return np.array(diagonal), np.array(beside)
