"""Seeds of an experiment in other processes, several at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags

FLAGS = flags.FLAGS
# The seed that this process is to run, if another one asked for it.
_asked: list[int] = []


class _Run(Exception):
    """Ends an experiment's `main` once its run is made."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


def hand_over(run: Callable[[int], Any]) -> None:
    """Makes the run that another process asked for and ends `main`; otherwise does nothing.

    Args:
      run: A function from a seed to a structure of JSON.

    Raises:
      _Run: If a run was asked for; it contains the result.
    """
    if _asked:
        raise _Run(run(_asked[-1]))


def runs(executor: Any, name: str, names: Sequence[str], seeds: Sequence[int]) -> Iterable[Any]:
    """Returns the runs of seeds that an executor makes.

    Args:
      executor: Anything with `map(function, *iterables)`.
      name: The name of the experiment.
      names: The flags that a run depends on besides its seed, whose values here hold there.
      seeds: The seeds.

    Returns:
      The runs, in the order of the seeds, each as soon as it and those before are made.
    """
    # In a wheel, train_val lies in another package.
    module = f"{__name__.removesuffix('.training.seeds_apart')}.experiments.{name}"
    given = [
        FLAGS[flag].serialize() for flag in (*names, "output") if FLAGS[flag].value is not None
    ]
    found: Iterable[Any] = executor.map(
        make, [module] * len(seeds), [tuple(given)] * len(seeds), list(seeds)
    )
    return found


def make(module: str, arguments: Sequence[str], seed: int) -> Any:
    """Returns the run of a seed, a structure of JSON, in a process of its own.

    Args:
      module: The experiment's module.
      arguments: The flags that the run depends on.
      seed: The seed.

    Raises:
      RuntimeError: If the experiment makes no runs of seeds.
    """
    experiment = importlib.import_module(module)
    if "seeds" not in FLAGS:
        experiment.define_flags()
    if not FLAGS.is_parsed():
        FLAGS([module, *arguments])
    _asked.append(seed)
    try:
        experiment.main()
    except _Run as done:
        return done.result
    finally:
        _asked.pop()
    raise RuntimeError(f"Expected {module} to run seeds, it ran none.")
