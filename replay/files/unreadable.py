"""What is raised about a file that can't be read as what it should be."""

from __future__ import annotations


class UnreadableFileError(ValueError):
    """A file is there and can't be used; the message names it and says why and what to do.

    Attributes:
      path: the file, or None where it is unknown.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        """Says what is wrong with which file.

        Args:
          message: the sentence that the user reads.
          path: the file.
        """
        super().__init__(message)
        self.path = path


class DamagedFileError(UnreadableFileError):
    """A file was cut short or changed after it was written, or something else wrote it."""


class LaterVersionError(UnreadableFileError):
    """A later version of this package wrote the file."""
