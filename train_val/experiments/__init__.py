"""Experiments of papers on hypergradients; each file is one, with its command."""
