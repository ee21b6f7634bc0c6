"""Normalisation's statistics of many images: `mlhf.moving_statistics`, by its old name."""

from mlhf.moving_statistics import PopulationStatistics

__all__ = ["PopulationStatistics"]
