"""K-FAC: the Fisher matrix approximated by a Kronecker product for each layer."""

from mlhf.optimizers.kfac.optimizer import KFAC, KFACState

__all__ = ["KFAC", "KFACState"]
