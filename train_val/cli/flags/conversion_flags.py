"""The flags of `folders_to_tfrecords.py`."""

from __future__ import annotations

from absl import flags

from train_val.cli.definitions import text, whole
from train_val.cli.exit_statuses import UsageError

FLAGS = flags.FLAGS
_FILES = "Files"


def define_flags() -> None:
    """Defines the flags."""
    text("data_dir", None, "The folder with train/ and val/.", _FILES, shown="none; required")
    text("output_dir", None, "The folder for the TFRecords.", _FILES, shown="none; required")
    whole("train_shards", 1024, "The number of files for the training images.", _FILES)
    whole("validation_shards", 128, "The number of files for the validation images.", _FILES)
    whole("seed", 0, "The seed of the images' order.", "Other", at_least=0, at_most=2**32 - 1)


def check_flags() -> None:
    """Refuses a conversion without folders.

    Raises:
      UsageError: If a folder is missing; the text names its flag.
    """
    for name in ("data_dir", "output_dir"):
        if not FLAGS[name].value:
            raise UsageError(f"Expected --{name}, got none: {FLAGS[name].help}")
