"""One training on several devices and machines; and many computations at once."""

from mlhf.distribute.data_parallel import DataParallel
from mlhf.distribute.executors import ProcessExecutor, RayExecutor

__all__ = ["DataParallel", "ProcessExecutor", "RayExecutor"]
