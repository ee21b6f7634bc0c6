"""Preconditioners of conjugate gradients."""
