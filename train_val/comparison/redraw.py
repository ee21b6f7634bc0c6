"""Draws the picture and the page of comparisons again, from their saved numbers alone.

    python -m train_val.comparison.redraw docs/results/digits docs/results/convnet_512

Nothing is trained and no data is read: curves and costs are in `results.jsonl`, the paragraphs on
how they were measured are in `comparison.md`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from replay import DamagedFileError, read_json_lines, replace_file
from replay.files.json_files import JsonLines
from train_val.comparison.cost import Cost
from train_val.comparison.page import page
from train_val.comparison.pictures import scoreboard_picture
from train_val.comparison.runs import Curve
from train_val.comparison.scoreboard import Score
from train_val.comparison.specifications import Entrant
from train_val.comparison.summary import summarize
from train_val.comparison.tuning import Tuning

_ABOUT = ("kind", "title", "command", "target", "report")


def read_results(path: str | Path) -> tuple[dict[str, Any], list[Score]]:
    """Reads the file that `json_lines` wrote.

    Args:
      path: The file `results.jsonl` of a comparison.

    Returns:
      A dictionary about the comparison (title, command, target, reported steps, conditions), and
      the scores, whose entrants cannot make optimizers.

    Raises:
      DamagedFileError: If the file is not that of a comparison.
    """
    try:
        return _parse(read_json_lines(path))
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"Expected {path} to be the results.jsonl of compare_optimizers, got something else "
            f"({error!r}); the command given again writes it anew from its runs.jsonl.",
            str(path),
        ) from error


def _parse(content: JsonLines) -> tuple[dict[str, Any], list[Score]]:
    if content.damaged:
        raise ValueError(f"line {content.damaged[0]} is damaged")
    about, *rows = content.lines
    if about["kind"] != "comparison":
        raise KeyError("kind")
    if not isinstance(about["report"], list) or not set(_ABOUT) <= set(about):
        raise KeyError("report")
    return about, [_score(row) for row in rows]


def redraw(folder: str | Path) -> None:
    """Writes `comparison.png`, `.pdf` and `.html` of a folder again.

    Args:
      folder: A `--model_dir` of `compare_optimizers` with `results.jsonl` and `comparison.md`.

    Raises:
      ValueError: If `results.jsonl` is not that of a comparison.
      FileNotFoundError: If one of the two files is missing.
    """
    folder = Path(folder)
    about, scores = read_results(folder / "results.jsonl")
    rows, _ = summarize(scores, about["report"], about["target"])
    text = (folder / "comparison.md").read_text(encoding="utf-8").partition("\n| ")[0]
    html = page(
        about["title"],
        scores,
        rows,
        explanation=[part.strip() for part in text.split("\n\n")[1:] if part.strip()],
        facts={name: value for name, value in about.items() if name not in _ABOUT},
        command=about["command"],
    )
    with replace_file(folder / "comparison.html") as file:
        file.write(html.encode())
    scoreboard_picture(scores, folder / "comparison.png", about["title"])


def _score(row: dict[str, Any]) -> Score:
    def make(setting: Any) -> Any:
        raise ValueError("Expected kept results to be drawn only: their optimizers are not kept.")

    entrant = Entrant(row["text"], row["title"], {}, {}, row["identity"], make)
    tried = [(one["setting"], _number(one["loss"])) for one in row["tuning"]]
    curves = [
        Curve(**{**curve, **{name: [*map(_number, curve[name])] for name in _MEASURED}})
        for curve in row["curves"]
    ]
    cost = None if row["cost"] is None else Cost(**row["cost"])
    return Score(entrant, Tuning(row["setting"], tried, row["inside"]), curves, cost)


_MEASURED = ("losses", "seconds", "accuracies")


def _number(value: float | None) -> float:
    # JSON has no NaN; null stands for any value that was not finite.
    return float("nan") if value is None else value


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("Expected the folders of comparisons, such as docs/results/digits, got none.")
    for name in sys.argv[1:]:
        redraw(name)
