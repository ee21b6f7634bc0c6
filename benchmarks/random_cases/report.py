"""Reports the results of random cases as a page and a list of failures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.random_cases.outcome import FAILED, NO_KERNEL, NO_REFERENCE, OK, REFUSED

Record = dict[str, Any]
STATES = (OK, REFUSED, NO_KERNEL, NO_REFERENCE, FAILED)


def write(folder: Path, command: str, records: Sequence[Record]) -> None:
    """Writes `README.md` and `failures.jsonl`.

    Args:
      folder: The folder, which is created.
      command: The command that made the records.
      records: The result of `runner.run`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = sorted(records, key=lambda record: record["seed"])
    (folder / "README.md").write_text(page(command, records))
    wrong = [record for record in records if FAILED in record["modes"].values()]
    lines = [
        json.dumps({k: r.get(k) for k in ("seed", "modes", "notes", "program")}) for r in wrong
    ]
    (folder / "failures.jsonl").write_text("".join(line + "\n" for line in lines))


def page(command: str, records: Sequence[Record]) -> str:
    """Returns the summary in Markdown: states by mode, failures, features by mode.

    Args:
      command: The command that made the records.
      records: The records, in the order in which failures are listed.

    Returns:
      The page.
    """
    modes = sorted({mode for record in records for mode in record["modes"]})
    checked = sorted({name for record in records for name in record.get("checked", [])})
    lines = [
        f"# Random cases: {records[0]['kind'] if records else ''}",
        "",
        f"    {command}",
        "",
        f"{len(records)} cases" + (f"; compared: {', '.join(checked)}." if checked else "."),
        "",
        *_table(
            ["mode", *STATES],
            [
                [mode, *(sum(r["modes"].get(mode) == s for r in records) for s in STATES)]
                for mode in modes
            ],
        ),
        "## Failures",
        "",
    ]
    wrong = [record for record in records if FAILED in record["modes"].values()]
    lines += [f"- {r['seed']}: {_short(r)}" for r in wrong] or ["None."]
    lines += ["", *_reasons(records), "## What the cases are made of", ""]
    lines += [
        "In how many cases each stands, and in how many of them a mode's answers were right.",
        "",
    ]
    counts = Counter(feature for record in records for feature in record["features"])
    right = {
        mode: Counter(f for r in records if r["modes"].get(mode) == OK for f in r["features"])
        for mode in modes
    }
    lines += _table(
        ["", "cases", *(f"right: {mode}" for mode in modes)],
        [
            [name, count, *(right[mode][name] for mode in modes)]
            for name, count in sorted(counts.items())
        ],
    )
    return "\n".join(lines)


def _reasons(records: Sequence[Record]) -> list[str]:
    """Returns a table of reasons why cases were not compared, counted by their first words."""
    reasons: Counter[str] = Counter()
    for record in records:
        if FAILED not in record["modes"].values():
            reasons.update(note[:160] for note in record["notes"])
    if not reasons:
        return []
    rows = [[count, reason.replace("\n", " ")] for reason, count in reasons.most_common()]
    return ["## Not compared", "", *_table(["cases", "reason"], rows)]


def _short(record: Record) -> str:
    notes = " ".join(" ".join(note.split())[-300:] for note in record["notes"])
    return notes[:600]


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(head), line(["---"] * len(head)), *map(line, rows), ""]
