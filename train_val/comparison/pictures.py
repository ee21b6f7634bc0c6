"""Draws results: loss against steps and against seconds, as PNG and as PDF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train_val.comparison.runs import Curve
from train_val.comparison.scoreboard import Score
from train_val.comparison.styles import Style, styles
from train_val.comparison.summary import median_curve

# More lines than this cannot be told apart in one plot: each gets a plot of its own.
MOST_IN_ONE_PLOT = 8
_COLUMNS = 4
# The color of the lines in the background of a small plot.
_PALE = "#C8C8C8"


class Line(NamedTuple):
    """One optimizer: its runs, their median, and how it looks."""

    label: str
    curves: Sequence[Curve]
    middle: Curve
    style: Style


def lines_of(scores: Sequence[Score], looks: Sequence[Style]) -> list[Line]:
    """Returns the runs, the median and the style of each optimizer."""
    return [
        Line(score.entrant.title, score.curves, median_curve(score.curves), style)
        for score, style in zip(scores, looks, strict=True)
    ]


def scoreboard_picture(scores: Sequence[Score], path: str | Path, title: str) -> None:
    """Draws the median training loss against steps and seconds, with the extremes as bands.

    With more than `MOST_IN_ONE_PLOT` optimizers, each gets its own plot against steps, with the
    others pale behind it; below are a plot of all last losses and one of all durations.

    Args:
      scores: The scores that `scoreboard` returned.
      path: A PNG file; a PDF file of the same name is written beside it.
      title: A line above the plots.
    """
    from matplotlib.figure import Figure

    lines = lines_of(scores, styles([score.entrant.text for score in scores]))
    figure = Figure(layout="constrained")
    if len(lines) > MOST_IN_ONE_PLOT:
        texts = _draw_apart(figure, lines)
    else:
        texts = _draw_together(figure, lines)
    # Titles are plain text, in which a dollar sign is a dollar sign.
    for text in (figure.suptitle(title), *texts):
        text.set_parse_math(False)
    path = Path(path)
    figure.savefig(path, dpi=110)
    # Without the date, so that the same results make the same file.
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def _draw_together(figure: Any, lines: Sequence[Line]) -> list[Any]:
    rows = math.ceil(len(lines) / 4)
    figure.set_size_inches(11, 4.2 + 0.22 * rows)
    by_step, by_second = figure.subplots(1, 2, sharey=True)
    for line in lines:
        band(by_step, line, opacity(len(lines)))
        for axis, x in ((by_step, line.middle.steps), (by_second, line.middle.seconds)):
            plot(axis, line.label, line.style, x, line.middle.losses)
    by_step.set(xlabel="steps", ylabel="training loss (median)", yscale="log")
    by_second.set(xlabel="seconds of training", yscale="log")
    limit(by_step, lines)
    for axis in (by_step, by_second):
        grid(axis)
    # Below both, where it covers no curve.
    legend = figure.legend(
        *by_step.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        handlelength=3.5,
    )
    return legend.get_texts()


def _draw_apart(figure: Any, lines: Sequence[Line]) -> list[Any]:
    rows = math.ceil(len(lines) / _COLUMNS)
    height = 0.9 + 0.24 * len(lines)
    figure.set_size_inches(11, 2.1 * rows + height)
    upper, lower = figure.subfigures(2, 1, height_ratios=[2.1 * rows, height])
    panels = list(upper.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for panel in panels[len(lines) :]:
        panel.remove()
    texts = []
    for number, (panel, line) in enumerate(zip(panels, lines, strict=False)):
        for other in lines:
            panel.plot(other.middle.steps, other.middle.losses, color=_PALE, lw=0.8)
        band(panel, line, 0.25)
        plot(panel, line.label, line.style, line.middle.steps, line.middle.losses)
        panel.set(yscale="log")
        texts.append(panel.set_title(line.label, fontsize=9))
        if number % _COLUMNS == 0:
            panel.set_ylabel("training loss", fontsize=9)
        if number + _COLUMNS >= len(lines):
            panel.set_xlabel("steps", fontsize=9)
            panel.tick_params(labelbottom=True)
        panel.tick_params(labelsize=8)
    limit(panels[0], lines)
    for panel in panels[: len(lines)]:
        grid(panel)
    last, seconds = lower.subplots(1, 2, sharey=True)
    texts += _draw_ends(last, seconds, lines)
    return texts


def _draw_ends(last: Any, seconds: Any, lines: Sequence[Line]) -> list[Any]:
    """Draws the loss at the last step, lowest on top, and the seconds of a run."""

    def end(line: Line) -> float:
        return line.middle.losses[-1] if math.isfinite(line.middle.losses[-1]) else math.inf

    ordered = sorted(lines, key=end)
    for row, line in enumerate(ordered):
        values = [curve.losses[-1] for curve in line.curves if math.isfinite(curve.losses[-1])]
        look = {"color": line.style.color, "marker": line.style.marker, "ms": 6}
        if math.isfinite(end(line)):
            last.plot([min(values), max(values)], [row, row], color=line.style.color, lw=1.5)
            last.plot(end(line), row, **look)
        seconds.plot(line.middle.seconds[-1], row, **look)
    last.set(xscale="log", xlabel="loss at the last step (median, extremes)")
    ends = [end(line) for line in ordered if math.isfinite(end(line))]
    if ends:
        # One seed that exploded would push all others into one column.
        low, high = last.get_xlim()
        last.set_xlim(low, min(high, 3 * max(ends)))
    seconds.set(xlabel="seconds of training", xlim=(0, None))
    labels = [line.label for line in ordered]
    last.set_yticks(range(len(ordered)), labels, fontsize=8)
    last.invert_yaxis()
    grid(last, vertical=False)
    seconds.grid(alpha=0.3)
    for axis in (last, seconds):
        axis.tick_params(axis="x", which="both", labelsize=8)
        axis.xaxis.label.set_size(9)
    return list(last.get_yticklabels())


def plot(
    axis: Any,
    label: str,
    style: Style,
    x: Sequence[float],
    y: Sequence[float],
    markevery: Any = None,
) -> Any:
    """Draws a line in an optimizer's look, with about eight markers; returns it."""
    (drawn,) = axis.plot(
        x,
        y,
        label=label,
        color=style.color,
        marker=style.marker,
        ms=4.5,
        lw=1.5,
        markevery=max(1, len(x) // 8) if markevery is None else markevery,
    )
    if style.dashes:
        drawn.set_dashes(style.dashes)
    return drawn


def opacity(count: int) -> float:
    """Returns how opaque bands are: the more may lie over each other, the fainter."""
    return min(0.18, 1 / count)


def band(axis: Any, line: Line, opacity: float, what: str = "losses") -> Any:
    """Fills between the extremes of the runs that have not diverged, wherever there is a median."""
    columns = zip(*[getattr(curve, what) for curve in line.curves], strict=True)
    ends = [
        [value for value in column if math.isfinite(value) and math.isfinite(median)]
        for column, median in zip(columns, getattr(line.middle, what), strict=True)
    ]
    low = [min(values, default=math.nan) for values in ends]
    high = [max(values, default=math.nan) for values in ends]
    return axis.fill_between(
        line.middle.steps, low, high, color=line.style.color, alpha=opacity, lw=0
    )


def limit(axis: Any, lines: Sequence[Line]) -> None:
    """Limits the height of the plot, so that the rest stays readable if a loss explodes."""
    highest = 1.5 * max(line.middle.losses[0] for line in lines)
    low, high = axis.get_ylim()
    axis.set_ylim(low, min(high, highest))


def grid(axis: Any, vertical: bool = True) -> None:
    """Draws a grid; multiples are labelled too where a logarithmic axis spans no power of ten."""
    low, high = axis.get_ylim() if vertical else axis.get_xlim()
    along = axis.yaxis if vertical else axis.xaxis
    narrow = along.get_scale() == "log" and high < 10 * low
    axis.grid(alpha=0.3, which="both" if narrow else "major")
    if narrow:
        # They are the only labels then, or stand beside the label of the power.
        along.set_minor_formatter("{x:g}")
        along.set_major_formatter("{x:g}")
        along.set_tick_params(which="both", labelsize=8)
