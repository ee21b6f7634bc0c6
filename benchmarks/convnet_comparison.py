"""A meta-trained MLHF on the convnet and CIFAR-10, beside Adam and momentum at their best.

    python benchmarks/convnet_comparison.py --data_dir=... --meta_ckpt=./cuda_convnet_log

Batches 4 and 5 of CIFAR-10, which meta-training did not see; 300 steps at batch 128; 3 seeds, the
same initial weights and batches for all. Adam's and momentum's learning rates are chosen on the
first seed. Runs are kept in --output and not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
from absl import app, flags

import mlhf
from train_val import comparison
from train_val.problems import image_problems

FLAGS = flags.FLAGS
STEPS = 300
EVERY = 50
REPORT = (50, 100, 200, 300)
SEEDS = (1, 2, 3)
ADAM = (3e-4, 1e-3, 3e-3, 1e-2)
MOMENTUM = (3e-3, 1e-2, 3e-2, 1e-1)


def contenders(meta_ckpt: str | None) -> list[comparison.Contender]:
    """Returns who takes part; MLHF only where there is one."""

    def tuned(optimizer):
        def with_rate(rate):
            optimizer.learning_rate = rate
            return optimizer

        return with_rate

    entrants = [
        comparison.Contender("Adam", tuned(mlhf.FirstOrder(keras.optimizers.Adam())), ADAM),
        comparison.Contender(
            "momentum", tuned(mlhf.FirstOrder(keras.optimizers.SGD(0.1, momentum=0.9))), MOMENTUM
        ),
    ]
    if meta_ckpt:
        trained = mlhf.MetaHessianFree.from_pretrained(meta_ckpt)
        digest = comparison.weights_digest(trained.weights)
        grid = [trained.learning_rate]
        entrants.insert(0, comparison.Contender("MLHF", lambda rate: trained, grid, digest))
    return entrants


def main(argv: list[str]) -> None:
    """Reads the flags and compares."""
    del argv
    output = Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    results = comparison.compare(
        image_problems.make(
            "convnet", "cifar10", data_dir=FLAGS.data_dir, part="train", batch_size=128
        ),
        contenders(FLAGS.meta_ckpt),
        seeds=SEEDS,
        steps=STEPS,
        every=EVERY,
        report=REPORT,
        tuning_seeds=SEEDS[:1],
        on_run=lambda name: print("done:", name, flush=True),
        cache=output / "runs.jsonl",
    )
    title = "Convnet on CIFAR-10, batches 4 and 5, batch 128: loss over the 20,000 training images"
    comparison.picture(results, output / "comparison.png", title)
    text = comparison.table(results, REPORT)
    (output / "comparison.md").write_text(f"{title}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Where cifar-10-batches-bin/ is.")
    flags.DEFINE_string("meta_ckpt", None, "The folder of a meta-training; left out, no MLHF.")
    flags.DEFINE_string("output", "runs/convnet_comparison", "Where results go.")
    app.run(main)
