"""Experiments from papers on hypergradients; each file is an experiment with its command."""
