"""Normalisation's statistics of many images: `mlhf.models.moving_statistics`, by its old name."""

from mlhf.models.moving_statistics import PopulationStatistics

__all__ = ["PopulationStatistics"]
