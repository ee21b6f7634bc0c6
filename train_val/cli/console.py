"""The command `mlhf` of an installed package: each script of `train_val` under a short name.

    mlhf train --data=digits --problem=mlp        python train_val/use_meta_optimizer.py ...

A script runs as it would by itself, with the same flags and exit statuses.
"""

from __future__ import annotations

import difflib
import runpy
import sys
import textwrap

import mlhf
from train_val.cli import running
from train_val.cli.exit_statuses import DONE, WRONG_USAGE

# The name of a command, its script, and what it does.
COMMANDS = {
    "quickstart": (
        "quickstart",
        "Meta-trains a small MLHF on digits and races it against tuned rivals: six minutes.",
    ),
    "train": ("use_meta_optimizer", "Trains a network with MLHF or any other optimizer."),
    "train-imagenet": ("use_meta_resnet_on_imagenet", "Trains a ResNet on ImageNet."),
    "meta-train": ("train_meta_optimizer", "Meta-trains an MLHF optimizer."),
    "compare": ("compare_optimizers", "Tunes optimizers under one budget and compares them."),
    "tune": (
        "tune_hyperparameters",
        "Learns the hyperparameters of a training by hypergradients.",
    ),
    "fetch-cifar10": ("cifar10_download_and_extract", "Downloads CIFAR-10's binary files."),
    "tfrecords": ("folders_to_tfrecords", "Writes folders of images as TFRecords."),
}
_HELP = ("--help", "-help", "-h", "help")


def main() -> None:
    """Runs the command that the process's arguments name."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name is None or name in _HELP:
        print(help_page(), file=sys.stderr if name is None else sys.stdout)
        sys.exit(WRONG_USAGE if name is None else DONE)
    if name == "--version":
        print(f"mlhf {mlhf.__version__}")
        sys.exit(DONE)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(
            f"Expected a command ({', '.join(COMMANDS)}), got {name!r}.{hint} mlhf --help says "
            "what each does.",
            file=sys.stderr,
        )
        sys.exit(WRONG_USAGE)
    running.called_as = f"mlhf {name}"
    del sys.argv[1]
    # "train_val" in a clone, "mlhf.train_val" in an installed package.
    package = str(__package__).removesuffix(".cli")
    runpy.run_module(f"{package}.{COMMANDS[name][0]}", run_name="__main__", alter_sys=True)


def help_page() -> str:
    """Returns what `mlhf --help` prints."""
    width = max(map(len, COMMANDS)) + 4
    lines = [
        "Second-order optimizers, meta-learned optimizers and hypergradients for TensorFlow.",
        "",
        "    mlhf COMMAND --FLAG=VALUE ...",
        "",
    ]
    for name, (_, text) in COMMANDS.items():
        lines += textwrap.wrap(
            text,
            100,
            initial_indent=f"  {name:{width - 2}}",
            subsequent_indent=" " * width,
        )
    return "\n".join(
        [*lines, "", "`mlhf COMMAND --help` lists a command's flags; `mlhf --version` says which."]
    )


if __name__ == "__main__":
    main()
