"""Draws the curves of a meta-training: `python benchmarks/plot_meta_training.py FOLDER PICTURE`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from mlhf.runs import run_log

# The curves, by their keys; percentiles limit the axes, as the first rollouts lie far outside.
CURVES = {
    "hession_loss": "mean of h",
    "meta_loss": "meta loss",
    "loss": "loss at the last step of a rollout",
    "grad_length": "length of the meta-gradient",
}
WINDOW = 15


def main(folder: str, picture: str) -> None:
    """Reads `metrics.jsonl` in a folder and writes a PNG."""
    lines = run_log.read(Path(folder) / run_log.FILE)
    steps = np.array([line["step"] for line in lines])
    figure, axes = plt.subplots(1, len(CURVES), figsize=(15, 3.4), layout="constrained")
    for axis, (name, title) in zip(axes, CURVES.items(), strict=True):
        values = np.array([np.nan if line[name] is None else line[name] for line in lines])
        axis.plot(steps, values, color="C0", alpha=0.3, lw=0.8)
        window = min(WINDOW, len(values))
        medians = [np.nanmedian(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]
        axis.plot(steps, medians, color="C0", label=f"median of {window}")
        low, high = np.nanpercentile(values, [2, 98])
        margin = 0.1 * (high - low)
        axis.set(xlabel="meta-steps", title=title, ylim=(low - margin, high + margin))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
