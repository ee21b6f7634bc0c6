"""Writes a scoreboard as one HTML file that fetches nothing, for light and for dark screens."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from train_val.comparison.charts import charts, swatch
from train_val.comparison.scoreboard import Score
from train_val.comparison.specifications import setting_text
from train_val.comparison.styles import COLORS, ON_DARK, styles
from train_val.comparison.summary import Summary
from train_val.comparison.tables import cells

_STYLE = """
:root { color-scheme: light dark;
  --back: #ffffff; --card: #f6f7f9; --text: #1b1f24; --faint: #5c6672; --line: #d5dae0;
  %(light)s }
@media (prefers-color-scheme: dark) { :root {
  --back: #14171b; --card: #1d2126; --text: #e6e9ed; --faint: #9aa4b0; --line: #363d46;
  %(dark)s } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 17px; margin: 30px 0 10px; }
p { margin: 6px 0; max-width: 78ch; }
.faint, caption { color: var(--faint); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 8px; margin: 18px 0 10px; }
.legend button { font: inherit; color: inherit; background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 14px; padding: 2px 11px 2px 9px; }
.legend button[aria-pressed="false"] { opacity: .4; text-decoration: line-through; }
.swatch { width: 36px; height: 10px; margin-right: 7px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 14px; }
.chart { width: 100%; height: auto; display: block; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.hidden { display: none; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 8px; text-align: right; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { background: var(--card); vertical-align: bottom; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
tbody th { font-weight: 600; }
td:nth-child(2) { white-space: nowrap; }
td small { color: var(--faint); display: block; white-space: nowrap; }
thead button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; text-align: inherit; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 14px; overflow-x: auto; font-size: 13px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 6px 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
/* At the end, where it has the last word. */
@media (max-width: 520px) { main { padding: 18px 10px 32px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  thead th { vertical-align: top; } td:nth-child(2) { white-space: normal; } }
"""

# Without the script the page shows the same but cannot sort or hide.
_SCRIPT = """
document.querySelectorAll('.legend button').forEach(function (button) {
  button.addEventListener('click', function () {
    var shown = button.getAttribute('aria-pressed') === 'true';
    button.setAttribute('aria-pressed', String(!shown));
    document.querySelectorAll('[data-series="' + button.value + '"]').forEach(function (path) {
      path.classList.toggle('hidden', shown);
    });
  });
});
document.querySelectorAll('table.sortable thead th').forEach(function (head, column) {
  head.querySelector('button').addEventListener('click', function () {
    var up = head.getAttribute('aria-sort') !== 'ascending';
    var body = head.closest('table').querySelector('tbody');
    var rows = Array.from(body.rows).map(function (row) {
      return [row.cells[column].dataset.value, row];
    });
    rows.sort(function (a, b) {
      var x = parseFloat(a[0]), y = parseFloat(b[0]);
      var numbers = !isNaN(x) && !isNaN(y);
      var order = numbers ? (x === y ? 0 : x - y) : String(a[0]).localeCompare(String(b[0]));
      return up ? order : -order;
    });
    head.parentNode.querySelectorAll('th').forEach(function (other) {
      other.removeAttribute('aria-sort');
    });
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    rows.forEach(function (row) { body.appendChild(row[1]); });
  });
});
"""


def _style_sheet() -> str:
    """Returns the style sheet, with the colors of `styles` on white and on dark."""
    places = range(len(COLORS))
    named = {
        "light": " ".join(f"--c{k}: {COLORS[k]};" for k in places),
        "dark": " ".join(f"--c{k}: {ON_DARK[COLORS[k]]};" for k in places),
    }
    text = _STYLE
    for name, value in named.items():
        text = text.replace(f"%({name})s", value)
    return text


def page(
    title: str,
    scores: Sequence[Score],
    rows: Sequence[Summary],
    *,
    explanation: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    command: str = "",
) -> str:
    """Returns the page as HTML.

    Args:
      title: The heading of the page.
      scores: The scores that `scoreboard` returned.
      rows: The rows that `summarize` returned.
      explanation: Paragraphs under the title.
      facts: Names and values under the table.
      command: The command that made the comparison.
    """
    looks = styles([score.entrant.text for score in scores])
    others = ("relative L2 error", "test loss")
    measured = next((name for name in others if name in (facts or {})), "test accuracy")
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        f"<title>{html.escape(title)}</title>",
        f"<style>{_style_sheet()}</style></head><body><main>",
        f"<h1>{html.escape(title)}</h1>",
        *[f'<p class="faint">{html.escape(text)}</p>' for text in explanation],
        '<div class="legend">',
        *[
            f'<button type="button" value="{number}" aria-pressed="true">{swatch(look)}'
            f"{html.escape(score.entrant.title)}</button>"
            for number, (score, look) in enumerate(zip(scores, looks, strict=True))
        ],
        f'</div><div class="charts">{"".join(charts(scores, looks, measured))}</div>',
        f"<h2>Numbers</h2>{_table(rows, measured)}",
    ]
    notes = [(row.title, note) for row in rows for note in row.notes]
    if notes:
        parts.append("<h2>Runs that ended in an error</h2><dl>")
        parts += [f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in notes]
        parts.append("</dl>")
    parts.append(f"<h2>What tuning tried</h2>{_tuning(scores)}")
    if facts:
        parts.append("<h2>Conditions</h2><dl>")
        parts += [
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
            for name, text in facts.items()
        ]
        parts.append("</dl>")
    if command:
        parts.append(f"<h2>Command</h2><pre>{html.escape(command)}</pre>")
    parts.append(f"</main><script>/*<![CDATA[*/{_SCRIPT}/*]]>*/</script></body></html>")
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Summary], measured: str) -> str:
    head, body = cells(rows, measured)
    parts = ['<div class="scroll"><table class="sortable"><thead><tr>']
    parts += [
        f'<th scope="col"><button type="button">{html.escape(text)}</button></th>' for text in head
    ]
    parts.append("</tr></thead><tbody>")
    for row in body:
        parts.append("<tr>")
        for number, text in enumerate(row):
            main, bracket, rest = text.partition(" (") if number > 1 else (text, "", "")
            shown = html.escape(main)
            if bracket:
                shown += f"<small>{html.escape(rest.rstrip(')'))}</small>"
            kind = ' scope="row"' if number == 0 else ""
            tag = "th" if number == 0 else "td"
            value = html.escape(_sort_value(main))
            parts.append(f'<{tag}{kind} data-value="{value}">{shown}</{tag}>')
        parts.append("</tr>")
    parts.append("</tbody></table></div>")
    return "".join(parts)


def _sort_value(text: str) -> str:
    # After all numbers.
    return "1e308" if text in ("diverged", "not reached", "") else text


def _tuning(scores: Sequence[Score]) -> str:
    parts = ["<dl>"]
    for score in scores:
        tried = "; ".join(
            f"{setting_text(setting)}: {f'{loss:.4g}' if math.isfinite(loss) else 'diverged'}"
            for setting, loss in score.tuning.tried
        )
        parts.append(f"<dt>{html.escape(score.entrant.title)}</dt>")
        parts.append(f"<dd>{html.escape(tried or 'not tuned')}</dd>")
    return "".join([*parts, "</dl>"])
