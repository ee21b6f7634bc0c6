"""The outer loop, which moves hyperparameters along their hypergradients."""
