"""Trains a ResNet on ImageNet: `python train_val/use_meta_resnet_on_imagenet.py --data_dir=...`.

`use_meta_optimizer.py` with other defaults: `--data=imagenet --problem=resnet --resnet_size=18`.
"""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401
if __name__ == "__main__":
    from train_val.cli import running
    from train_val.cli.flags import imagenet_flags

    running.begin(__doc__, imagenet_flags.define_flags, imagenet_flags.check_flags)

from train_val import use_meta_optimizer
from train_val.cli.flags.imagenet_flags import check_flags, define_flags

__all__ = ["check_flags", "define_flags", "main"]

main = use_meta_optimizer.main

if __name__ == "__main__":
    running.finish(main)
