"""Trains a ResNet on ImageNet: `python train_val/use_meta_resnet_on_imagenet.py --data_dir=...`.

`use_meta_optimizer.py` with other defaults: `--data=imagenet --problem=resnet --resnet_size=18`.
"""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401

from absl import flags

from train_val import command_line, use_meta_optimizer
from train_val.data import IMAGENET

main = use_meta_optimizer.main


def define_flags() -> None:
    """Defines the flags."""
    use_meta_optimizer.define_flags()
    flags.adopt_module_key_flags(use_meta_optimizer)  # for --help
    defaults = {"data": IMAGENET, "problem": "resnet", "resnet_size": 18}
    for name, value in defaults.items():
        flags.FLAGS.set_default(name, value)


if __name__ == "__main__":
    command_line.run(main, define_flags)
