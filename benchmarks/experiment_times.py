"""Estimates the time of the paper's experiments from a few steps of each command.

    python -m benchmarks.experiment_times --cifar=DIR --imagenet=DIR --output=FILE.json

A command runs for 1 step and for a few more; the difference excludes startup, tracing and the
final evaluation. The figures are processor time (user and system, over all cores), which other jobs
on the machine hardly affect: a machine with n idle cores takes somewhat more than an n-th of it.
Each command is that of its script in `scripts/`, with `--max_steps`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from replay import read_json

ROOT = Path(__file__).resolve().parents[1]
# Images that meta-training and training read.
CIFAR_META, CIFAR_TRAIN, IMAGENET_TRAIN = 30_000, 20_000, 1_281_167
EPOCHS = 250

_META = ("train_val/train_meta_optimizer.py", "--weight_decay=2e-4", "--x_use=x")
_USE = ("train_val/use_meta_optimizer.py", "--weight_decay=2e-4")
_CONVNET = ("--problem=convnet",)
_RESNET = ("--problem=resnet", "--resnet_size=20", "--batch_size=128")
_HF = ("--optimizer=meta", "--y_use=none", "--d_use=none", "--CG_iter=20")
_IMAGENET = (
    "train_val/use_meta_resnet_on_imagenet.py",
    *("--problem=resnet", "--resnet_size=18", "--batch_size=64", "--weight_decay=1e-4"),
)


def commands() -> dict[str, tuple[Sequence[str], float]]:
    """Returns commands and the number of steps of the whole experiment, by name."""
    rollouts = {"convnet": CIFAR_META * EPOCHS / 640, "ResNet-20": CIFAR_META * EPOCHS / 1280}
    rolls = ("--meta_roll_back=10",)
    at_128, at_512 = CIFAR_TRAIN * EPOCHS / 128, CIFAR_TRAIN * EPOCHS / 512
    chosen: dict[str, tuple[Sequence[str], float]] = {}
    for y_use in ("rnn", "none"):
        for cg in (2, 4):
            rule = (f"--y_use={y_use}", f"--CG_iter={cg}")
            chosen[f"meta-train on the convnet, y {y_use}, CG {cg}"] = (
                (*_META, *_CONVNET, "--batch_size=64", "--keep_prob=0.3", *rolls, *rule),
                rollouts["convnet"],
            )
    chosen["meta-train on ResNet-20, y rnn, CG 4"] = (
        (*_META, *_RESNET, *rolls, "--y_use=rnn", "--CG_iter=4"),
        rollouts["ResNet-20"],
    )
    batch = (*_CONVNET, "--batch_size=128")
    meta: tuple[str, ...] = ("--optimizer=meta", "--meta_ckpt=convnet")
    chosen["convnet at 128, MLHF"] = ((*_USE, *batch, *meta, "--curvature_share=1"), at_128)
    chosen["convnet at 128, Adam"] = ((*_USE, *batch, "--optimizer=adam", "--lr=1e-3"), at_128)
    batch = (*_CONVNET, "--batch_size=512")
    chosen["convnet at 512, MLHF"] = ((*_USE, *batch, *meta, "--curvature_share=1"), at_512)
    chosen["convnet at 512, HF at CG 20"] = (
        (*_USE, *batch, *_HF, "--lr=1e-2", "--damping=5e-3"),
        at_512,
    )
    chosen["convnet at 512, K-FAC"] = (
        (*_USE, *batch, "--optimizer=kfac", "--lr=0.1", "--damping=1", "--decay=0.99"),
        at_512,
    )
    meta = ("--optimizer=meta", "--meta_ckpt=resnet", "--curvature_share=1")
    chosen["ResNet-20 at 128, MLHF"] = ((*_USE, *_RESNET, *meta), at_128)
    steps = IMAGENET_TRAIN * EPOCHS / 64
    chosen["ResNet-18 on ImageNet, MLHF"] = ((*_IMAGENET, *meta), steps)
    chosen["ResNet-18 on ImageNet, momentum"] = (
        (*_IMAGENET, "--optimizer=momentum", "--lr=0.025"),
        steps,
    )
    return chosen


def processor_seconds(command: Sequence[str], steps: int) -> float:
    """Returns the processor seconds of a command for a number of steps, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *command, f"--max_steps={steps}", f"--model_dir={folder}/run"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Reads the arguments, measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cifar", required=True, help="the folder with cifar-10-batches-bin/")
    parser.add_argument(
        "--imagenet", help="the folder of ImageNet; by default its rows are left out"
    )
    parser.add_argument("--steps", type=int, default=3, help="steps beyond the first (3)")
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--output", type=Path, help="a JSON file; its rows are not run again")
    settings = parser.parse_args()
    rows = {}
    if settings.output and settings.output.exists():
        rows = read_json(settings.output, "the times that were measured")
    for name, (command, steps) in commands().items():
        imagenet = "ImageNet" in name
        folder = settings.imagenet if imagenet else settings.cifar
        if name in rows or folder is None or settings.only not in name:
            continue
        given = [*command, f"--data_dir={os.path.abspath(folder)}"]
        one = processor_seconds(given, 1)
        more = processor_seconds(given, 1 + settings.steps)
        rows[name] = {"seconds a step": (more - one) / settings.steps, "steps": round(steps)}
        print(f"{name}: {rows[name]}", flush=True)
        if settings.output:
            settings.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(
        "\n| experiment | steps | core-seconds per step | core-hours |\n| --- | --- | --- | --- |"
    )
    for name, row in rows.items():
        hours = row["seconds a step"] * row["steps"] / 3600
        print(f"| {name} | {row['steps']:,} | {row['seconds a step']:.2f} | {hours:,.0f} |")


if __name__ == "__main__":
    main()
