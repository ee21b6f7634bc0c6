"""Training on several devices and machines, by `tf.distribute`."""

from mlhf.distribute.data_parallel import DataParallel

__all__ = ["DataParallel"]
