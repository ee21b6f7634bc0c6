import dataclasses
import math

import pytest

from tests.docs.pages import ROOT
from tests.train_val.comparison.problems import score
from train_val.comparison import Cost, json_lines, page, scoreboard_table, summarize
from train_val.comparison.redraw import read_results, redraw


def test_what_was_kept_draws_the_same_page(tmp_path):
    scores = [
        score("adam", [8.0, 4.0, 2.0], [8.0, 4.5, 2.5], optimizer="adam"),
        score("hf:cg=4", [8.0, 3.0, math.nan], [8.0, 2.0, 1.0], diverged_at=2),
    ]
    scores[0] = dataclasses.replace(scores[0], cost=Cost(1.5, 1.4, 0.3, 0.2, 10**9))
    rows, target = summarize(scores, [1, 2])
    about = {"title": "A & B", "command": "c", "target": target, "report": [1, 2], "data": "x"}
    json_lines(tmp_path / "results.jsonl", scores, rows, about)
    text = f"# A & B\n\nHow.\n\nWhy.\n\n{scoreboard_table(rows)}\n\n    c\n"
    (tmp_path / "comparison.md").write_text(text)
    redraw(tmp_path)
    expected = page(
        "A & B", scores, rows, explanation=["How.", "Why."], facts={"data": "x"}, command="c"
    )
    assert (tmp_path / "comparison.html").read_text() == expected
    assert (tmp_path / "comparison.png").stat().st_size > 1000


def test_the_committed_results_are_read_and_give_their_tables():
    folder = ROOT / "docs" / "results" / "digits"
    about, scores = read_results(folder / "results.jsonl")
    rows, _ = summarize(scores, about["report"], about["target"])
    assert scoreboard_table(rows) in (folder / "comparison.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["", "[1]\n", '{"kind": "other"}\n', "{"])
def test_another_file_is_refused_by_name(content, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"results\.jsonl to be"):
        read_results(path)
