"""Optimizers whose step is a rule on the gradient of the batch."""

from mlhf.optimizers.gradient_methods.amuse import AMUSE
from mlhf.optimizers.gradient_methods.first_order import FirstOrder
from mlhf.optimizers.gradient_methods.muon import Muon
from mlhf.optimizers.gradient_methods.prodigy import Prodigy
from mlhf.optimizers.gradient_methods.schedule_free import ScheduleFreeAdamW
from mlhf.optimizers.gradient_methods.soap import SOAP

__all__ = ["AMUSE", "FirstOrder", "Muon", "Prodigy", "SOAP", "ScheduleFreeAdamW"]
