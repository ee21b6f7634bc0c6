"""Compares a meta-trained MLHF with tuned Adam and momentum on the convnet and CIFAR-10.

    python benchmarks/convnet_comparison.py --data_dir=... --meta_ckpt=./cuda_convnet_log

It trains on batches 4 and 5 of CIFAR-10, which meta-training did not use, for 300 steps at batch
size 128 and with 3 seeds; all optimizers get the same initial weights and batches. The learning
rates of Adam and momentum are tuned on the first seed. Finished runs in --output are not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import app, flags

import mlhf
from train_val import comparison
from train_val.problems import image_problems

FLAGS = flags.FLAGS
STEPS = 300
EVERY = 50
REPORT = (50, 100, 200, 300)
SEEDS = (1, 2, 3)
RIVALS = "adam:lr=3e-4/1e-3/3e-3/1e-2,momentum:lr=3e-3/1e-2/3e-2/1e-1"
LARGEST_GRID = 4


def race(
    problem: image_problems.Problem, meta_ckpt: str | None, cache: str | Path | None
) -> list[comparison.Score]:
    """Compares the optimizers.

    Args:
      problem: The training problem.
      meta_ckpt: The folder of a meta-training, whose learning rate is not tuned; None for no MLHF.
      cache: A file of finished runs.

    Returns:
      The scores.
    """
    text = RIVALS
    if meta_ckpt:
        rate = mlhf.MetaHessianFree.from_pretrained(meta_ckpt).learning_rate
        text = f"meta:lr={rate}:title=MLHF,{text}"
    return comparison.scoreboard(
        problem,
        comparison.parse_all(text, meta_ckpt),
        seeds=SEEDS,
        steps=STEPS,
        every=EVERY,
        tuning_seeds=SEEDS[:1],
        largest=LARGEST_GRID,
        accuracy=False,
        cache=cache,
    )


def main(argv: list[str]) -> None:
    """Reads the flags and compares."""
    del argv
    output = Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    problem = image_problems.make(
        "convnet", "cifar10", data_dir=FLAGS.data_dir, part="train", batch_size=128
    )
    scores = race(problem, FLAGS.meta_ckpt, output / "runs.jsonl")
    title = "Convnet on CIFAR-10, batches 4 and 5, batch 128: loss over the 20,000 training images"
    comparison.scoreboard_picture(scores, output / "comparison.png", title)
    text = comparison.table(scores, REPORT)
    (output / "comparison.md").write_text(f"{title}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "The folder with cifar-10-batches-bin/.")
    flags.DEFINE_string("meta_ckpt", None, "The folder of a meta-training; by default no MLHF.")
    flags.DEFINE_string("output", "runs/convnet_comparison", "The folder for results.")
    app.run(main)
