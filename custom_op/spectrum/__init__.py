"""The spectrum of a curvature operator from its products: eigenvalues, traces, densities."""
