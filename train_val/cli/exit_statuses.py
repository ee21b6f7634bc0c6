"""The exit statuses of the commands: one rule for all of them."""

from __future__ import annotations

import signal

DONE = 0
# The command could not do what was asked: files, data or memory failed, or a training diverged.
FAILED = 1
# The command line itself is wrong; nothing was begun.
WRONG_USAGE = 2
# What shells report for a program that a signal ended.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

RULE = (
    f"{DONE} done; {FAILED} failed, or a training diverged; {WRONG_USAGE} wrong flags; "
    f"{INTERRUPTED} ended by Ctrl-C, {TERMINATED} by SIGTERM"
)


class UsageError(ValueError):
    """Raised when flags make no sense, alone or together; the text says what was expected."""


class DivergedError(Exception):
    """Raised when a training diverged, after its report; the text says what to try."""


class WrongUsage(SystemExit):
    """Ends a command whose flags are wrong, with a sentence and status 2."""

    def __init__(self, sentence: str) -> None:
        """Sets the status to 2; with a text, `SystemExit` alone would end with status 1."""
        super().__init__(sentence)
        self.code = WRONG_USAGE
