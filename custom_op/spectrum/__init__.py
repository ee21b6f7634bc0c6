"""What a curvature operator's spectrum is, from its products: eigenvalues, traces, densities."""
