"""The charts of a page: Matplotlib's drawings as SVG that the page's style sheet colors."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

from train_val.comparison import pictures
from train_val.comparison.scoreboard import Score
from train_val.comparison.styles import BLACK, COLORS, Style

# In inches; the letters are readable even if a chart is as narrow as a phone.
_SIZE, _SWATCH = (4.7, 3.0), (0.5, 0.14)
_LETTERS = 10
# Matplotlib does not write pure black, so the style sheet could not color it.
_INK = "#010101"
_TEXT, _FAINT, _FRAME = "#1b1f24", "#5c6672", "#d5dae0"
# The color in the drawing -> its name in the style sheet.
_NAMES = {
    **{(_INK if c == BLACK else c.lower()): f"var(--c{k})" for k, c in enumerate(COLORS)},
    **{_TEXT: "var(--text)", _FAINT: "var(--faint)", _FRAME: "var(--line)"},
}
_LOOK = {
    "svg.fonttype": "none",
    "font.size": _LETTERS,
    "text.color": _TEXT,
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": _FRAME,
    "xtick.color": _FRAME,
    "ytick.color": _FRAME,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
}


def charts(
    scores: Sequence[Score], looks: Sequence[Style], measured: str = "test accuracy"
) -> list[str]:
    """Returns training loss and test measure against steps and seconds, each as an `<svg>` element.

    The parts that belong to an optimizer are a `<g>` with its number, from 0, as `data-series`.

    Args:
      scores: The scores that `scoreboard` returned.
      looks: A style for each score.
      measured: What was measured on the test data: `"test accuracy"` or something else.
    """
    lines = pictures.lines_of(scores, [_inked(look) for look in looks])
    return [
        _chart(f"{title} by {unit}", lines, what, unit)
        for title, what in (("Training loss", "losses"), (measured.capitalize(), "accuracies"))
        for unit in ("step", "second")
    ]


def swatch(style: Style) -> str:
    """Returns a short piece of a line with its marker, for legends."""
    from matplotlib.figure import Figure

    figure = Figure(_SWATCH)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set(xlim=(0, 2), ylim=(-1, 1))
    pictures.plot(axis, "", _inked(style), [0, 1, 2], [0, 0, 0], markevery=[1])
    return _element(figure, "swatch", f"{style}", 'aria-hidden="true"')


def _chart(title: str, lines: Sequence[pictures.Line], what: str, unit: str) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_LOOK):
        figure = Figure(_SIZE, layout="constrained")
        axis = figure.subplots()
        for number, line in enumerate(lines):
            x = line.middle.steps if unit == "step" else line.middle.seconds
            drawn = [pictures.plot(axis, line.label, line.style, x, getattr(line.middle, what))]
            if unit == "step":
                drawn.append(pictures.band(axis, line, pictures.opacity(len(lines)), what))
            for part in drawn:
                part.set_gid(f"series-{number}")
        axis.set_title(title, loc="left", fontsize=_LETTERS + 1.5, fontweight="bold")
        axis.set(xlabel="steps" if unit == "step" else "seconds of training", xlim=(0, None))
        if unit == "step":
            axis.locator_params(axis="x", integer=True)
        if what == "losses":
            axis.set(ylabel="training loss", yscale="log")
            axis.yaxis.set_major_formatter("{x:g}")
            pictures.limit(axis, lines)
        elif title.startswith("Test loss"):
            axis.set_ylabel("test loss")
        else:
            axis.set_ylabel("test accuracy")
            axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        pictures.grid(axis)
        text = _element(figure, "chart", title, f'role="img" aria-label="{html.escape(title)}"')
    for number, line in enumerate(lines):
        name = f"<title>{html.escape(line.label)}</title>"
        text = text.replace(
            f'<g id="series-{number}">', f'<g data-series="{number}" class="series">{name}'
        )
    return text


def _inked(style: Style) -> Style:
    return Style(_INK, style.marker, style.dashes) if style.color == BLACK else style


def _element(figure: Any, kind: str, salt: str, attributes: str) -> str:
    """Returns a figure as an `<svg>` for a page that fetches nothing and sets the colors itself."""
    from matplotlib import rc_context

    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # The salt keeps the names of parts in one drawing different from those in another.
    with rc_context({**_LOOK, "svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    view = re.search(r'viewBox="[^"]*"', text)
    inner = text[text.index(">", text.index("<svg")) + 1 :]
    inner = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", inner, count=1, flags=re.DOTALL)
    inner = inner.replace("xlink:href", "href")
    inner = re.sub(r"<!--.*?-->", "", inner, flags=re.DOTALL)
    # Remove names that nothing refers to, digits that no screen shows, and fonts that are not the
    # page's.
    inner = re.sub(r'<g id="(?!series-)[^"]*"', "<g", inner)
    inner = re.sub(r' (?:d|x|y|transform)="[^"]*"', _rounded, inner)
    inner = re.sub(r"font-family: [^;]*; ", "", inner)
    inner = re.sub(
        r": (#[0-9a-f]{6})\b", lambda match: f": {_NAMES.get(match[1], match[1])}", inner
    )
    inner = re.sub(r"\s*\n\s*", " ", inner)
    return f'<svg class="{kind}" {view[0] if view else ""} {attributes}>{inner.strip()}'


def _rounded(attribute: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])
