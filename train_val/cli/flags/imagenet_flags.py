"""The flags of `use_meta_resnet_on_imagenet.py`: other defaults."""

from __future__ import annotations

from absl import flags

from train_val.cli.flags import use_flags
from train_val.cli.flags.use_flags import check_flags

__all__ = ["check_flags", "define_flags"]

DEFAULTS = {"data": "imagenet", "problem": "resnet", "resnet_size": 18}


def define_flags() -> None:
    """Defines the flags."""
    use_flags.define_flags()
    for name, value in DEFAULTS.items():
        flags.FLAGS.set_default(name, value)
