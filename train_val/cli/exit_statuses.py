"""How a command ends: one rule for all of them."""

from __future__ import annotations

import signal

DONE = 0
# It could not do what was asked: files, data or memory, or a training that diverged.
FAILED = 1
# The command line itself is wrong; nothing was begun.
WRONG_USAGE = 2
# As shells report a program that was ended by a signal.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

RULE = (
    f"{DONE} done; {FAILED} failed, or a training diverged; {WRONG_USAGE} wrong flags; "
    f"{INTERRUPTED} ended by Ctrl-C, {TERMINATED} by SIGTERM"
)


class UsageError(ValueError):
    """Flags that make no sense, alone or together; the text says what was expected."""


class DivergedError(Exception):
    """A training that diverged, whose report has been printed; the text says what to try."""


class WrongUsage(SystemExit):
    """The end of a command whose flags are wrong: its text is a sentence, its status 2."""

    def __init__(self, sentence: str):
        """Keeps the sentence; `SystemExit` alone would end with status 1 for it."""
        super().__init__(sentence)
        self.code = WRONG_USAGE
