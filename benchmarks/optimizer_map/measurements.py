"""What the map is drawn from: each comparison's folder and the command that makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_EQUAL_SECONDS = ROOT / "docs/results/equal_seconds"


@dataclasses.dataclass(frozen=True)
class Equation:
    """A comparison at equal seconds.

    Attributes:
      title: The task in the map.
      folder: The folder in docs/results/equal_seconds.
      task: The task as `benchmarks.equal_seconds` takes it.
      times: The seconds that the map shows.
      arguments: Further arguments of the command.
    """

    title: str
    folder: str
    task: str
    times: tuple[float, ...]
    arguments: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The folder with its runs."""
        return _EQUAL_SECONDS / self.folder

    def command(self, python: str) -> Sequence[str]:
        """Returns the command that makes what is missing."""
        times = ",".join(f"{time:g}" for time in self.times)
        given = (f"--task={self.task}", *self.arguments, f"--times={times}")
        output = f"--output={self.path.relative_to(ROOT)}"
        return (python, "-m", "benchmarks.equal_seconds", *given, output)


_TEN_SECONDS = ("--seconds=10", "--budgets=")
_THIRTY_SECONDS = ("--seconds=30", "--budgets=10")
EQUATIONS = (
    Equation("Poisson, 2-32-32-1", "poisson", "poisson", (5, 10, 20, 30), _THIRTY_SECONDS),
    Equation(
        "Poisson, 2-64-1",
        "poisson_64",
        "poisson:width=64:depth=1",
        (5, 10, 20, 30),
        _THIRTY_SECONDS,
    ),
    Equation("Poisson in 5 dimensions", "poisson_5d", "poisson_5d", (5, 10), _TEN_SECONDS),
    Equation("heat", "heat", "heat", (5, 10), _TEN_SECONDS),
    Equation("Helmholtz", "helmholtz", "helmholtz", (5, 10), _TEN_SECONDS),
    Equation("a stiff equation", "stiff_ode", "stiff_ode", (5, 10), _TEN_SECONDS),
    Equation("Burgers", "burgers", "burgers", (5, 10), _TEN_SECONDS),
    Equation("Allen-Cahn", "allen_cahn", "allen_cahn", (5, 10), _TEN_SECONDS),
    Equation("heat, inverse problem", "inverse_heat", "inverse_heat", (5, 10), _TEN_SECONDS),
)


@dataclasses.dataclass(frozen=True)
class Board:
    """A comparison of tuned optimizers by steps, with the seconds of quiet steps.

    Attributes:
      title: The task in the map.
      folder: The folder in docs/results.
      script: The script with its arguments that makes what is missing; empty for a board that is
        made by the command in its own page.
    """

    title: str
    folder: str
    script: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The folder with its runs."""
        return ROOT / "docs/results" / self.folder

    def command(self, python: str) -> Sequence[str]:
        """Returns the command that makes what is missing; empty if the map does not make it."""
        return ("bash", *self.script) if self.script else ()


_UNSEEN = "benchmarks/unseen_tasks.sh", "docs/results/unseen"
BOARDS = (
    Board("photographs, convnet, batch 64", "unseen/photographs", (*_UNSEEN, "photographs")),
    Board("source code, LSTM, batch 32", "unseen/source_code", (*_UNSEEN, "source_code")),
    Board("denoising autoencoder, batch 128", "unseen/denoising", (*_UNSEEN, "denoising")),
    Board("CIFAR-10, the paper's convnet, batch 512", "convnet_512"),
    Board("CIFAR-10, the paper's convnet, batch 128", "convnet_128"),
    Board("CIFAR-10, ResNet-20, batch 128", "resnet20"),
    Board("photographs, ResNet-18", "resnet18"),
)
