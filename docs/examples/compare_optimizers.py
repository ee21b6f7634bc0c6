"""Compare optimizers, each at its best setting, as the project's boards do.

Every optimizer is tuned over its own grid on one seed, then runs on others; the table has medians
and the extremes in brackets. `mlhf compare` does the same from the command line.
"""

from __future__ import annotations

import argparse

from mlhf.train_val import comparison, task_families

STEPS, SEEDS = 40, (1, 2, 3)
ENTRANTS = (
    "hf:title=Hessian-free:lr=0.3:damping=1e-3/1e-1",
    "kfac:lr=none:damping=0.01/0.1",
    "muon:lr=0.03/0.1",
    "adam:lr=0.01/0.03",
)


def run(seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> list[comparison.Score]:
    """Returns the score of each optimizer on a network of 32 tanh units on digits."""
    problem = task_families.make("mlp:width=32:data=digits:batch_size=128")
    return comparison.scoreboard(
        problem,
        comparison.parse_all(",".join(ENTRANTS)),
        seeds=seeds,
        steps=steps,
        every=10,
        tuning_steps=20,
        largest=2,
        accuracy=False,
        progress=False,
    )


def main() -> None:
    """Compares, checks that curvature is ahead per step, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="compare_optimizers.png", help="the picture's path")
    output = parser.parse_args().output
    scores = run()
    print(comparison.table(scores, [20, STEPS]))
    losses = {score.entrant.title: comparison.least_loss(score, STEPS) for score in scores}
    assert losses["Hessian-free"] < 0.1 * losses["Adam"]
    comparison.scoreboard_picture(scores, output, "Digits: 32 tanh units, batches of 128")


if __name__ == "__main__":
    main()
