"""The flags of the hypergradient experiments; tables say which experiment has which flags."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from absl import flags

from replay.numbers import check_count
from train_val.cli import running
from train_val.cli.definitions import choice, number, text, whole, words
from train_val.cli.exit_statuses import UsageError

FLAGS = flags.FLAGS

_GROUP = "The experiment"
# The default of `--iterations`, for those that have it.
ITERATIONS = {
    "hyper_cleaning": 200,
    "learned_schedules": 50,
    "learned_training_set": 40,
    "neumann_overfitting": 300,
    "online_tuning": 20,
    "rgd_nn": 100,
    "weight_penalties": 50,
    "weighted_error": 20,
}
NAMES = (
    *("all_methods", "chaos", "drmad_fidelity", "hyper_cleaning", "learned_schedules"),
    *("learned_training_set", "neumann_overfitting", "online_tuning", "penalty_granularity"),
    *("rgd_nn", "toy", "weight_penalties", "weighted_error"),
)
WITHOUT_DATA = ("rgd_nn", "toy")
WITHOUT_SEEDS = ("toy",)
NETWORKS = ("softmax", "mlp", "cnn")
OUTER_ADAMS = ("hips", "textbook")


def begin(name: str, summary: str | None) -> None:
    """Reads the flags of an experiment's process, as `running.begin` does.

    Args:
      name: One of `NAMES`.
      summary: The experiment's docstring.
    """
    running.begin(summary, definer(name), check_flags, who_has=who_has)


def definer(name: str) -> Callable[[], None]:
    """Returns the function that defines the flags of an experiment.

    Args:
      name: One of `NAMES`.
    """

    def define_flags() -> None:
        """Defines the flags."""
        if name not in WITHOUT_DATA:
            text(
                "data_dir",
                None,
                "The folder with MNIST's four idx files, or with mnist/.",
                _GROUP,
                shown="tensorflow-datasets downloads",
            )
        if name not in WITHOUT_SEEDS:
            words("seeds", ["0"], "The seeds, one run for each.", _GROUP)
            whole("jobs", 1, "Seeds run at once, in as many processes.", _GROUP)
        if name in ITERATIONS:
            whole(
                "iterations",
                ITERATIONS[name],
                "Steps of the outer optimizer, which updates the hyperparameters.",
                _GROUP,
                at_least=0,
            )
        _OWN.get(name, lambda: None)()
        text("output", "runs/experiments", "The folder for results.", "Files")

    return define_flags


def _chaos() -> None:
    whole("points", 400, "The number of learning rates.", _GROUP, at_least=10)


def _drmad_fidelity() -> None:
    whole("steps", 2000, "Training steps.", _GROUP, at_least=10)
    number(
        "momentum",
        0.95,
        "The momentum; the default is that of the authors' code, while their paper has 0.1.",
        _GROUP,
        at_least=0,
        below=1,
    )


def _learned_schedules() -> None:
    choice("outer_adam", "hips", OUTER_ADAMS, "The outer optimizer.", _GROUP)
    whole(
        "average_seeds",
        0,
        "If above 0, only average the first hypergradient over this many seeds.",
        _GROUP,
        at_least=0,
    )


def _all_methods() -> None:
    words("networks", list(NETWORKS), f"The networks, among {', '.join(NETWORKS)}.", _GROUP)


_OWN: dict[str, Callable[[], None]] = {
    "all_methods": _all_methods,
    "chaos": _chaos,
    "drmad_fidelity": _drmad_fidelity,
    "learned_schedules": _learned_schedules,
}


def check_flags() -> None:
    """Refuses seeds that are not whole numbers, and networks that the experiment does not have.

    Raises:
      UsageError: If there are any; the text says what was expected.
    """
    if "seeds" in FLAGS:
        seeds_of(FLAGS.seeds)
    if "networks" in FLAGS and not (FLAGS.networks and set(FLAGS.networks) <= set(NETWORKS)):
        raise UsageError(
            f"Expected --networks as some of {', '.join(NETWORKS)}, with commas between, got "
            f"{','.join(FLAGS.networks)!r}."
        )


def who_has(flag: str) -> list[str]:
    """Returns the experiments that have a flag, to point users to them.

    Args:
      flag: The name of a flag that some other experiment does not have.
    """
    owners = {
        "data_dir": [name for name in NAMES if name not in WITHOUT_DATA],
        "seeds": [name for name in NAMES if name not in WITHOUT_SEEDS],
        "jobs": [name for name in NAMES if name not in WITHOUT_SEEDS],
        "iterations": list(ITERATIONS),
        "points": ["chaos"],
        "steps": ["drmad_fidelity"],
        "momentum": ["drmad_fidelity"],
        "outer_adam": ["learned_schedules"],
        "average_seeds": ["learned_schedules"],
        "networks": ["all_methods"],
    }
    return owners.get(flag, [])


def seeds_of(texts: Sequence[str]) -> list[int]:
    """Returns seeds as whole numbers.

    Raises:
      UsageError: If a word is not a whole number.
    """
    try:
        numbers = [int(word) if word.isdecimal() else word for word in texts or [""]]
        return [check_count("seeds", number, 0, 2**31 - 1) for number in numbers]
    except ValueError:
        raise UsageError(
            "Expected --seeds as whole numbers from 0 on with commas between, such as 0,1,2, got "
            f"{','.join(texts)!r}."
        ) from None
