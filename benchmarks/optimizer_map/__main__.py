"""Draws the map of optimizers, docs/map.md, from the comparisons; with --run makes those first.

    python -m benchmarks.optimizer_map                 # from the runs that are in docs/results
    DATA=../shared/data python -m benchmarks.optimizer_map --run

Runs that are there are not repeated. tf-levenberg-marquardt has to be importable for the equations
(`pip install tf-levenberg-marquardt`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.equal_seconds import report
from benchmarks.optimizer_map.measurements import BOARDS, EQUATIONS, ROOT, Board, Equation
from train_val.comparison.redraw import read_results
from train_val.comparison.summary import summarize

PAGE = ROOT / "docs/map.md"
_MARK = "<!-- MAP: {} -->"


def equations(rows: Sequence[Equation]) -> str:
    """Returns the errors at equal seconds as a table: tasks by methods, at the last time."""
    methods: list[str] = []
    cells: dict[str, dict[str, str]] = {}
    best: dict[str, str] = {}
    for row in rows:
        path = row.path / "runs.jsonl"
        if not path.exists():
            continue
        records = [json.loads(line) for line in path.read_text().splitlines()]
        groups = report.chosen(records)
        last = row.times[-1]
        errors = {name: report.curve(group, last) for name, group in groups.items()}
        methods += [name for name in groups if name not in methods]
        name = f"[{row.title}](results/equal_seconds/{row.folder}/table.md), {last:g} s"
        lowest = min(errors.values())
        cells[name] = {
            method: _emphasized(f"{error:.1e}", error == lowest) if math.isfinite(error) else "none"
            for method, error in errors.items()
        }
        best[name] = min(errors, key=lambda method: errors[method])
    head = "| relative error after | " + " | ".join(methods) + " |"
    lines = [head, "| --- |" + " --- |" * len(methods)]
    for name, row_cells in cells.items():
        shown = " | ".join(row_cells.get(method, "not run") for method in methods)
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def boards(rows: Sequence[Board]) -> str:
    """Returns for each board the optimizers by loss at the last step, and by seconds to a loss."""
    lines = [
        "| task, steps | losses at the last step, the lowest first | "
        "seconds to the loss that the best AdamW or Adam ends with |",
        "| --- | --- | --- |",
    ]
    for row in rows:
        path = row.path / "results.jsonl"
        if not path.exists():
            continue
        about, scores = read_results(path)
        last = max(about["report"])
        rows_of_board, _ = summarize(scores, about["report"])
        ended = {one.title: one.losses[last].median for one in rows_of_board}
        adams = [ended[title] for title in ended if title.startswith("Adam")]
        target = min(adams) if adams else None
        summaries, _ = summarize(scores, about["report"], target)
        by_loss = sorted(
            (one for one in summaries if math.isfinite(ended[one.title])),
            key=lambda one: ended[one.title],
        )
        losses = ", ".join(f"{one.title} {ended[one.title]:.3g}" for one in by_loss)
        reached = [(one.seconds_to_target, one.title) for one in summaries]
        seconds = ", ".join(
            f"{title} {time:.3g}"
            for time, title in sorted((time, title) for time, title in reached if _is_known(time))
        )
        link = f"[{row.title}](results/{row.folder}/comparison.md), {last}"
        lines.append(f"| {link} | {losses} | {seconds or 'not measured'} |")
    return "\n".join(lines)


def _is_known(seconds: float | None) -> Any:
    return seconds is not None and math.isfinite(seconds)


def _emphasized(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def with_part(page: str, name: str, text: str) -> str:
    """Returns a page with the text between two marks of a name replaced.

    Raises:
      ValueError: If the page does not have the marks.
    """
    first, last = _MARK.format(name), _MARK.format("/" + name)
    if page.count(first) != 1 or page.count(last) != 1:
        raise ValueError(f"Expected {first} and {last} once each in {PAGE}.")
    head, _, rest = page.partition(first)
    return f"{head}{first}\n{text}\n{last}{rest.partition(last)[2]}"


def run(rows: Sequence[Equation | Board]) -> None:
    """Runs what is missing, one comparison after the other."""
    for row in rows:
        command = row.command(sys.executable)
        if command:
            print(f"{row.title}: {' '.join(command)}", flush=True)
            environment = {**os.environ, "PYTHON": sys.executable}
            subprocess.run(command, cwd=ROOT, env=environment, check=True)


def main() -> None:
    """Reads the command line, runs what is asked for, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true", help="Make missing runs first.")
    arguments = parser.parse_args()
    if arguments.run:
        run([*EQUATIONS, *BOARDS])
    page = PAGE.read_text()
    page = with_part(page, "equations", equations(EQUATIONS))
    PAGE.write_text(with_part(page, "boards", boards(BOARDS)))
    print(f"Wrote {PAGE.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
