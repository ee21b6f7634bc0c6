"""Gauss-Newton methods for residuals: Levenberg and Marquardt's."""
