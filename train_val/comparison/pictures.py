"""Results as pictures: loss against steps and against seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from train_val.comparison.charts import band_opacity
from train_val.comparison.contenders import setting_text
from train_val.comparison.grid_search import Result
from train_val.comparison.runs import Curve
from train_val.comparison.scoreboard import Score
from train_val.comparison.summary import median_curve


def picture(results: Sequence[Result], path: str | Path, title: str) -> None:
    """Draws training loss against steps and against seconds.

    Args:
      results: Of `compare`.
      path: A PNG file.
      title: Above both.
    """
    _draw(
        [(f"{one.name} ({setting_text(one.setting)})", one.curves) for one in results], path, title
    )


def scoreboard_picture(scores: Sequence[Score], path: str | Path, title: str) -> None:
    """Draws training loss against steps and against seconds.

    Args:
      scores: Of `scoreboard`.
      path: A PNG file.
      title: Above both.
    """
    _draw([(score.entrant.title, score.curves) for score in scores], path, title)


def _draw(lines: Sequence[tuple[str, Sequence[Curve]]], path: str | Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = math.ceil(len(lines) / 4)
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 4.2 + 0.2 * rows), sharey=True, layout="constrained"
    )
    highest = 3 * max(curve.losses[0] for _, curves in lines for curve in curves)
    for number, (label, curves) in enumerate(lines):
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        middle = median_curve(curves)
        bottom, top = _band(curves, middle)
        axes[0].fill_between(
            middle.steps, bottom, top, color=style["color"], alpha=band_opacity(len(lines)), lw=0
        )
        axes[0].plot(middle.steps, middle.losses, label=label, **style)
        axes[1].plot(middle.seconds, middle.losses, label=label, **style)
    axes[0].set(xlabel="steps", ylabel="training loss", yscale="log")
    axes[1].set(xlabel="seconds of training", yscale="log")
    low, high = axes[0].get_ylim()
    if high > highest:
        # What explodes leaves the picture; the rest stays readable.
        high = highest
        axes[0].set_ylim(low, high)
    for axis in axes:
        axis.grid(alpha=0.3, which="both" if high < 10 * low else "major")
        if high < 10 * low:
            # Within one power of ten its multiples are the only labels, or stand beside it.
            axis.yaxis.set_minor_formatter("{x:g}")
            axis.yaxis.set_major_formatter("{x:g}")
    # Below both, where it covers no curve.
    legend = figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    # Titles are text, dollars in them are dollars.
    for text in (figure.suptitle(title), *legend.get_texts()):
        text.set_parse_math(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _band(curves: Sequence[Curve], middle: Curve) -> tuple[list[float], list[float]]:
    """Returns the extremes of the runs that have not diverged, as far as there is a median."""
    columns = zip(*[curve.losses for curve in curves], strict=True)
    ends = [
        [value for value in column if math.isfinite(value) and math.isfinite(median)]
        for column, median in zip(columns, middle.losses, strict=True)
    ]
    return [min(e, default=math.nan) for e in ends], [max(e, default=math.nan) for e in ends]
