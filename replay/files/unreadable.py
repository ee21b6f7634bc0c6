"""Errors about files that cannot be read as what they should be."""

from __future__ import annotations


class UnreadableFileError(ValueError):
    """A file exists but cannot be used; the message names it and says why and what to do.

    Attributes:
      path: The file, or None where it is unknown.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        """Says what is wrong with which file.

        Args:
          message: The sentence that the user reads.
          path: The file.
        """
        super().__init__(message)
        self.path = path


class DamagedFileError(UnreadableFileError):
    """A file was cut short or changed after it was written, or something else wrote it."""


class LaterVersionError(UnreadableFileError):
    """A later version of this package wrote the file."""
