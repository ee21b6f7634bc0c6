"""Trains a network: the loop, the optimizers by name, the settings of a run."""
