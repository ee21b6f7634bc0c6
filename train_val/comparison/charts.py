"""Line charts as SVG elements, colored by the style sheet of the page that they stand in."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Sequence

from train_val.comparison.styles import COLORS, Style

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 68, 22, 30, 44
# Markers along a line, at most.
_MARKERS = 9
# Matplotlib's markers as corners around 0, 0.
_OUTLINES = {
    "o": "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0Z",
    "s": "M-3-3H3V3H-3Z",
    "D": "M0-4L4 0L0 4L-4 0Z",
    "d": "M0-4.5L2.6 0L0 4.5L-2.6 0Z",
    "^": "M0-4L4 3.5H-4Z",
    "v": "M0 4L-4-3.5H4Z",
    "<": "M-4 0L3.5-4V4Z",
    ">": "M4 0L-3.5-4V4Z",
    "P": "M-1.3-4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4V-1.3H-1.3Z",
    "X": "M-2.8-4L0-1.5L2.8-4L4-2.8L1.5 0L4 2.8L2.8 4L0 1.5L-2.8 4L-4 2.8L-1.5 0L-4-2.8Z",
    "*": "M0-4.6L1.2-1.5L4.5-1.4L1.9 .7L2.8 4L0 2.1L-2.8 4L-1.9 .7L-4.5-1.4L-1.2-1.5Z",
    "p": "M0-4L3.8-1.2L2.4 3.3H-2.4L-3.8-1.2Z",
    "h": "M0-4L3.5-2V2L0 4L-3.5 2V-2Z",
    "H": "M-4 0L-2-3.5H2L4 0L2 3.5H-2Z",
    "8": "M-1.6-3.8H1.6L3.8-1.6V1.6L1.6 3.8H-1.6L-3.8 1.6V-1.6Z",
}


@dataclasses.dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
      label: What it is.
      number: Its place in the legend, from 0.
      style: Its color, marker and dashes.
      x: Where.
      y: The values there; what is not finite is left out.
      low: The lower edge of a band around it; empty for none.
      high: The upper edge.
    """

    label: str
    number: int
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    highest: float = math.inf,
    percent: bool = False,
) -> str:
    """Returns an `<svg>` element.

    Args:
      title: Above the chart, and for who can't see it.
      series: The lines.
      x_label: Of the axis.
      y_label: Of the axis.
      log: Whether the vertical axis is logarithmic.
      highest: Values above are cut off.
      percent: Whether vertical labels are percentages.
    """
    xs = [x for one in series for x in one.x if math.isfinite(x)]
    ys = [y for one in series for y in one.y if math.isfinite(y) and (y > 0 or not log)]
    ys = [min(y, highest) for y in ys] or [1.0]
    right = max(xs, default=1.0) or 1.0
    low, high = min(ys), max(ys)
    if high <= low:
        low, high = (low / 2, high * 2) if log and low > 0 else (low - 0.5, high + 0.5)
    scale: Callable[[float], float] = math.log10 if log else float
    bottom, top = scale(low), scale(high)
    margin = 0.04 * (top - bottom)
    bottom, top = bottom - margin, top + margin

    def place_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    def place_y(y: float) -> float:
        # What a logarithm can't show lies at the lower edge.
        value = scale(max(y, 10**bottom)) if log else y
        return TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom)

    # One clip a chart: what is cut off does not cross its frame.
    clip = "clip-" + "".join(c if c.isalnum() else "-" for c in title.lower())
    frame = (LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    box = 'x="{}" y="{}" width="{}" height="{}"'.format(*frame)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">',
        f'<defs><clipPath id="{clip}"><rect {box}/></clipPath></defs>',
        f'<text class="name" x="{LEFT}" y="18">{html.escape(title)}</text>',
    ]
    ticks = _log_ticks(10**bottom, 10**top) if log else _ticks(bottom, top)
    for value in ticks:
        at = place_y(value)
        text = f"{100 * value:g}%" if percent else _label(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{text}</text>'
        )
    for value in _ticks(0, right):
        at = place_x(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">'
            f"{value:g}</text>"
        )
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="{middle_x}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    parts.append(
        f'<text class="axis beside" transform="translate(13 {middle_y}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y_label)}</text>'
    )
    parts.append(f'<g clip-path="url(#{clip})">')
    for one in series:
        key = f'data-series="{one.number}" class="{_color_class(one.style)}'
        band = _band(one, place_x, place_y)
        if band:
            parts.append(f'<path {key} band" d="{band}"/>')
        line = _line(list(zip(one.x, one.y, strict=True)), place_x, place_y)
        parts.append(
            f'<path {key} line"{_dashes(one.style)} d="{line}">'
            f"<title>{html.escape(one.label)}</title></path>"
        )
        for x, y in list(zip(one.x, one.y, strict=True))[:: max(1, len(one.x) // (_MARKERS - 1))]:
            if math.isfinite(x) and math.isfinite(y) and y <= highest:
                where = f"translate({place_x(x):.1f} {place_y(y):.1f})"
                shape = _OUTLINES[one.style.marker]
                parts.append(f'<path {key} dot" transform="{where}" d="{shape}"/>')
    parts.append(f'</g><rect class="frame" {box}/></svg>')
    return "".join(parts)


def swatch(style: Style) -> str:
    """Returns a short piece of a line with its marker, for legends."""
    name = _color_class(style)
    return (
        f'<svg class="swatch" viewBox="0 0 36 10" aria-hidden="true"><path class="{name} line"'
        f'{_dashes(style)} d="M1 5H35"/><path class="{name} dot" transform="translate(18 5)" '
        f'd="{_OUTLINES[style.marker]}"/></svg>'
    )


def _color_class(style: Style) -> str:
    return f"c{COLORS.index(style.color)}"


def _dashes(style: Style) -> str:
    lengths = " ".join(f"{length:g}" for length in style.dashes)
    return f' stroke-dasharray="{lengths}"' if lengths else ""


def band_opacity(count: int) -> float:
    """Returns how opaque bands are: the more may lie over each other, the fainter."""
    return min(0.18, 1 / count)


def _label(value: float) -> str:
    """Returns a number in few letters: 0.001, but 1e-4."""
    if not 0 < abs(value) < 1e-3:
        return f"{value:g}"
    digits, exponent = f"{value:.3e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _line(points, place_x, place_y) -> str:
    drawn, pen = [], "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = "M"
            continue
        drawn.append(f"{pen}{place_x(x):.1f} {place_y(y):.1f}")
        pen = "L"
    return "".join(drawn) or "M0 0"


def _band(one: Series, place_x, place_y) -> str:
    points = [
        (x, low, high)
        for x, low, high in zip(one.x, one.low, one.high, strict=False)
        if math.isfinite(x) and math.isfinite(low) and math.isfinite(high)
    ]
    if len(points) < 2:
        return ""
    edge = [(x, high) for x, _, high in points] + [(x, low) for x, low, _ in reversed(points)]
    return _line(edge, place_x, place_y) + "Z"


def _ticks(low: float, high: float) -> list[float]:
    """Returns four to eight round numbers."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= max(m for m in (1, 2, 5) if m * step <= (high - low) / 3.5 or m == 1)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten, and between them what room there is for; two at least."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    factors = (1, 2, 5) if span < 2.5 else (1,)
    if span < 0.7:
        factors = (1, 1.5, 2, 3, 4, 5, 6, 8)  # type: ignore[assignment]
    every = max(1, round(span / 7))
    ticks = [f * 10.0**d for d in decades if d % every == 0 for f in factors]
    found = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]
    # Within a factor of about 1.5 a logarithm is nearly a line, and has the ticks of one.
    return found if len(found) >= 2 else _ticks(low, high)
