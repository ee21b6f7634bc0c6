"""Executors for many computations at once: anything with `map` serves; these survive a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mlhf.checks.arguments import check_count

# So many processes may die before it is the computation's own doing.
_ATTEMPTS = 3


class ProcessExecutor:
    """Processes on this machine, by joblib.

    Results come in the order of the arguments, whichever is ready first. If a process is killed,
    what is not finished is computed again by new ones. A computation sees as many threads as it
    would in this process, so that it gives the same bits; more jobs than cores are slower.
    """

    def __init__(self, jobs: int) -> None:
        """Sets the number of processes, which start with the first `map`.

        Args:
          jobs: The number of processes, at least 1; one job is computed in this process.

        Raises:
          ValueError: If it is not.
        """
        self.jobs = check_count("jobs", jobs)

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Yields the results of a function for the arguments of each call.

        Args:
          function: A function that can be pickled (by cloudpickle: closures and lambdas can).
          *iterables: The arguments, as for Python's `map`.

        Yields:
          The results.

        Raises:
          RuntimeError: If processes die again and again.
        """
        import joblib

        waiting = list(zip(*iterables, strict=False))
        if self.jobs == 1:
            yield from (function(*arguments) for arguments in waiting)
            return
        done = failures = 0
        while done < len(waiting):
            try:
                # Otherwise joblib divides the threads among the processes, and sums are rounded
                # in another way.
                with joblib.parallel_config("loky", inner_max_num_threads=os.cpu_count()):
                    pool = joblib.Parallel(self.jobs, return_as="generator", pre_dispatch="all")
                    calls = (joblib.delayed(function)(*arguments) for arguments in waiting[done:])
                    for result in pool(calls):
                        yield result
                        done, failures = done + 1, 0
            except BrokenProcessPool as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise RuntimeError(
                        f"Expected the {self.jobs} processes to finish what they were given, but "
                        f"they were killed {_ATTEMPTS} times in a row, perhaps for want of memory: "
                        "take fewer jobs."
                    ) from error


class RayExecutor:
    """The processes of a Ray cluster, on one machine or many (`pip install mlhf[ray]`).

    Results come in the order of the arguments. Ray repeats what a process that died was computing.
    """

    def __init__(self, address: str | None = None, **options: Any) -> None:
        """Connects to a cluster, unless this process is connected already.

        Args:
          address: The cluster's address, as for `ray.init`; None for the one that the environment
            names, or else for the processors of this machine.
          **options: Options of each computation, as for `ray.remote`, such as `num_cpus=2`.

        Raises:
          ImportError: If Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise ImportError(
                "Expected Ray to be installed for mlhf.distribute.RayExecutor, it is not: "
                "pip install 'mlhf[ray]'."
            ) from error
        self._ray, self._options = ray, options
        if not ray.is_initialized():
            ray.init(address=address)

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Yields the results of a function for the arguments of each call.

        Args:
          function: A function that can be pickled (by cloudpickle: closures and lambdas can).
          *iterables: The arguments, as for Python's `map`.

        Yields:
          The results.
        """
        remote = self._ray.remote(function if _is_function(function) else _called(function))
        if self._options:
            remote = remote.options(**self._options)
        waiting = [remote.remote(*arguments) for arguments in zip(*iterables, strict=False)]
        for result in waiting:
            yield self._ray.get(result)


def _is_function(thing: Any) -> bool:
    return hasattr(thing, "__code__")


def _called(thing: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function for an object that can be called, which Ray does not take."""

    def call(*arguments: Any) -> Any:
        return thing(*arguments)

    return call
