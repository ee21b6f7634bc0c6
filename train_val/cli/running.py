"""Takes a command from its arguments to an exit status.

A command reads its flags before it imports what needs TensorFlow, so that help and wrong flags are
answered in a second:

    if __name__ == "__main__":
        running.begin(__doc__, define_flags, check_flags)   # above the other imports
    ...
    if __name__ == "__main__":
        running.finish(main)
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from train_val.cli import help_page, quiet
from train_val.cli.exit_statuses import (
    DONE,
    FAILED,
    INTERRUPTED,
    TERMINATED,
    WRONG_USAGE,
    DivergedError,
    UsageError,
    WrongUsage,
)
from train_val.cli.signals import Terminated, attended

FLAGS = flags.FLAGS
# What the user typed in front of the flags, if it was not the name of a script or module.
called_as: str | None = None
# `--helpfull` and `--helpshort` are what other absl commands have.
_HELP = {"--help", "-help", "-h", "--helpfull", "-helpfull", "--helpshort", "-helpshort"}


def begin(
    summary: str | None,
    define_flags: Callable[[], None],
    check: Callable[[], None] | None = None,
    tensorflow: bool = True,
    who_has: Callable[[str], list[str]] = lambda flag: [],
) -> None:
    """Reads the flags of the process: help ends it with status 0, wrong flags with 2.

    Args:
      summary: The command's docstring, whose first paragraph says what it does.
      define_flags: Defines the flags.
      check: Raises `UsageError` if flags make no sense together.
      tensorflow: Whether the command needs TensorFlow, which is then loaded.
      who_has: Takes the name of a flag that the command does not have; returns the commands that
        have it.
    """
    before = set(FLAGS)
    define_flags()
    names = [name for name in FLAGS if name not in before]
    if _HELP & set(sys.argv[1:]):
        first = " ".join((summary or "").split("\n\n")[0].split())
        _print(help_page.page(_command(), first.partition(": `")[0], names, FLAGS))
        sys.exit(DONE)
    try:
        read_flags(sys.argv, check, who_has)
    except WrongUsage as error:
        _end(str(error), WRONG_USAGE)
    # What libraries log below a warning is not this command's news.
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    if tensorflow:
        # Help and wrong flags wait for nothing that they do not need.
        from mlhf.runs.memory import keep_freed_memory

        keep_freed_memory()
        try:
            quiet.load_tensorflow()
        except KeyboardInterrupt:
            _end("Interrupted before anything was begun.", INTERRUPTED)


def finish(main: Callable[[], None]) -> None:
    """Runs a command whose flags `begin` read, and ends the process.

    Args:
      main: The command.
    """
    try:
        guarded(main)
    except WrongUsage as error:
        _end(str(error), WRONG_USAGE)
    sys.exit(DONE)


def read_flags(
    argv: Sequence[str],
    check: Callable[[], None] | None = None,
    who_has: Callable[[str], list[str]] = lambda flag: [],
) -> None:
    """Reads the flags that have been defined.

    Args:
      argv: The name of the command and its arguments.
      check: Raises `UsageError` if flags make no sense together.
      who_has: The function that `begin` describes.

    Raises:
      WrongUsage: If a flag is wrong; the text says what was expected.
    """
    try:
        rest = FLAGS(list(argv))
        if len(rest) > 1:
            raise WrongUsage(f"Expected flags only, got {' '.join(rest[1:])}.")
        if check is not None:
            check()
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(FLAGS), 1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        if owners := who_has(error.flagname):
            hint = f" {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} it."
        raise WrongUsage(f"There is no flag --{error.flagname}.{hint} --help lists all.") from None
    except flags.Error as error:
        raise WrongUsage(_one_line(error)) from None
    except UsageError as error:
        raise WrongUsage(str(error)) from None


def guarded(main: Callable[[], Any]) -> None:
    """Runs a command whose flags have been read.

    Args:
      main: The command.

    Raises:
      WrongUsage: If flags make no sense (status 2).
      SystemExit: After expected trouble, with a sentence (status 1), Ctrl-C (130) or SIGTERM (143).
    """
    try:
        with attended():
            main()
    except UsageError as error:
        raise WrongUsage(str(error)) from error
    except DivergedError as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
    except (OSError, ValueError) as error:
        # CheckpointError and DataError are ValueErrors.
        sys.exit(sentence(error))
    except (KeyboardInterrupt, Terminated) as error:
        terminated = isinstance(error, Terminated)
        print(
            f"{'Terminated' if terminated else 'Interrupted'}. The same command continues from the "
            "last checkpoint, if there is one; nothing was left half written.",
            file=sys.stderr,
        )
        sys.exit(TERMINATED if terminated else INTERRUPTED)


def sentence(error: Exception) -> str:
    """Returns an error's own text, or a sentence for an error of the operating system."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return (
            f"Expected to use {error.filename}, could not ({error.strerror}): make room, change "
            "its permissions, or choose another place."
        )
    return str(error)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # A pager or `head` that has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end(text: str, status: int) -> None:
    print(text, file=sys.stderr)
    sys.exit(status)


def _command() -> str:
    if called_as is not None:
        return called_as
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is not None:
        return f"python -m {module.name}"
    return f"python {os.path.relpath(sys.argv[0])}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # absl's own prefix; the sentence after it names the flag already.
    _, marker, rest = text.partition(": Expected --")
    if marker:
        return f"Expected --{rest}"
    wrong_choice = re.fullmatch(r"flag --(\w+)=(.*): value should be one of <(.*)>", text)
    if wrong_choice:
        name, value, choices = wrong_choice.groups()
        return f"Expected --{name} as one of {choices.replace('|', ', ')}, got {value!r}."
    no_truth = re.fullmatch(r"flag --(\w+)=(.*): \('Non-boolean.*", text)
    if no_truth:
        return f"Expected --{no_truth[1]} as true or false, got {no_truth[2]!r}."
    return text
