"""The outer loop: hyperparameters that follow their hypergradients."""
