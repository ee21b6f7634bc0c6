import dataclasses
import json
import math
from xml.etree import ElementTree

import pytest

from tests.train_val.comparison.problems import score
from train_val.comparison import (
    Cost,
    at_measured_cost,
    json_lines,
    page,
    scoreboard_table,
    summarize,
)
from train_val.comparison.summary import median_curve, reached

ADAM = ([8.0, 4.0, 2.0, 1.0], [8.0, 4.0, 2.0, 1.2], [8.0, 5.0, 1.0, 0.5])
FAST = ([8.0, 1.0, 0.5, 0.25],) * 3
NEVER = ([8.0, 7.0, 6.0, 5.0], [8.0, 7.0, math.nan, math.nan], [8.0, 7.0, 6.5, 4.0])


@pytest.fixture(scope="module")
def scores():
    return [
        score("Fast", *FAST, seconds=[0.0, 2.0, 4.0, 6.0]),
        score("Adam", *ADAM, optimizer="adam"),
        score("Never", *NEVER, inside=False),
        score("Slow Adam", ([8.0, 7.0, 6.0, 5.5]), optimizer="adam"),
    ]


def test_medians_spreads_and_what_the_target_takes(scores):
    (fast, adam, never, _), target = summarize(scores[:3] + scores[3:], [1, 3])
    assert target == 1.0
    assert adam.losses[3] == (1.0, 0.5, 1.2) and adam.losses[1] == (4.0, 4.0, 5.0)
    assert adam.accuracy == (0.0, pytest.approx(-0.2), 0.5)
    assert (adam.steps_to_target, adam.seconds_to_target) == (3.0, 1.5)
    assert (adam.relative_steps, adam.relative_seconds) == (1.0, 1.0)
    assert (fast.relative_steps, fast.relative_seconds) == (pytest.approx(1 / 3), 2 / 1.5)
    assert never.relative_steps == math.inf and not never.inside
    assert never.losses[3] == (5.0, 4.0, math.inf)
    assert never.diverged == []


def test_the_target_lies_between_measurements():
    curve = score("x", [16.0, 4.0]).curves[0]
    assert reached(curve, 8.0) == (0.5, 0.25)  # half the way in the logarithm
    assert reached(curve, 4.0) == (1.0, 0.5)
    assert reached(curve, 16.0) == (0.0, 0.0)
    assert reached(curve, 3.9) == (math.inf, math.inf)


def test_a_minority_that_diverges_leaves_a_median():
    curve = median_curve(score("x", *NEVER).curves)
    assert curve.losses == [8.0, 7.0, 6.5, 5.0]
    most = median_curve(score("x", NEVER[1], NEVER[1], NEVER[0]).curves)
    assert most.losses[:2] == [8.0, 7.0] and math.isnan(most.losses[2])


def test_without_adam_there_is_a_target_only_if_given(scores):
    rows, target = summarize([scores[0]], [3])
    assert target is None and rows[0].relative_steps is None and rows[0].steps_to_target is None
    assert "target" not in scoreboard_table(rows)
    rows, target = summarize([scores[0]], [3], target=1.0)
    assert target == 1.0 and rows[0].steps_to_target == 1.0 and rows[0].relative_steps is None


def test_a_target_is_told_in_steps_and_seconds_where_adam_does_not_reach_it(scores):
    fast, adam, never, _ = scores
    for board in ([adam, fast, never], [fast, never]):
        rows, _ = summarize(board, [3], target=0.3)
        assert all(row.relative_steps is None for row in rows)
        head, _, *lines = scoreboard_table(rows).splitlines()
        assert head.endswith("| seconds | steps to target | seconds to target |")
        ends = {line.split(" | ")[0]: line.split(" | ")[-2:] for line in lines}
        assert ends.pop("| Fast") == ["2.74", "5.47 |"]
        assert list(ends.values()) == [["not reached", "not reached |"]] * len(ends)
        assert '<button type="button">steps to target</button>' in page("Title", board, rows)


def test_a_target_is_told_in_seconds_where_those_of_adam_were_not_measured(scores):
    fast, adam, *_ = scores
    fast = dataclasses.replace(fast, cost=Cost(2.0, 2.0, 0.2, 0.1))
    rows, _ = summarize(at_measured_cost([fast, adam]), [3])
    head, _, first, second = [line.split(" | ") for line in scoreboard_table(rows).splitlines()]
    place = head.index("steps to target, by Adam's")
    assert head[place + 1] == "seconds to target"
    assert first[place : place + 2] == ["0.33", "0.2"] and second[place : place + 2] == ["1.00", ""]


def test_the_table_says_it_all(scores):
    rows, _ = summarize(scores, [1, 3])
    lines = scoreboard_table(rows).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[-1].count("|")
    assert "gradients" not in lines[0]
    assert "| 1 (0.5 to 1.2) |" in lines[3] and "| 1.00 | 1.00 |" in lines[3]
    assert "0.33 | 1.33" in lines[2]
    assert "lr 0.3 (edge)" in lines[4] and "(4 to diverged)" in lines[4]
    assert "not reached" in lines[4]


def test_costs_stand_in_the_table_where_there_are_any(scores):
    costly = dataclasses.replace(scores[0], cost=Cost(3.456, 3.0, 0.3, 0.1, 1_234_567_890))
    rows, _ = summarize([costly, scores[1]], [3])
    lines = scoreboard_table(rows).splitlines()
    assert lines[0].endswith("| a step in gradients | peak GB |")
    assert lines[2].endswith("| 3.46 | 1.23 |") and lines[3].endswith("|  |  |")


def test_a_diverged_optimizer_is_named(scores):
    nan = math.nan
    dead = score("Dead", [8.0, nan, nan, nan], optimizer="adam", diverged_at=1)
    rows, target = summarize([dead], [3])
    assert target is None
    assert "Dead (diverged at step 1)" in scoreboard_table(rows)
    assert "| diverged | diverged |" in scoreboard_table(rows)


def test_a_bar_in_a_title_stays_in_its_cell():
    lines = scoreboard_table(summarize([score("a|b", [2.0, 1.0])], [1])[0]).splitlines()
    assert lines[2].startswith(r"| a\|b | ")
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_json_lines_are_json_and_complete(scores, tmp_path):
    rows, target = summarize(scores, [1, 3])
    json_lines(tmp_path / "results.jsonl", scores, rows, {"title": "x", "target": target})

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "results.jsonl").read_text()
    head, *lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert head == {"kind": "comparison", "title": "x", "target": 1.0}
    assert [line["title"] for line in lines] == ["Fast", "Adam", "Never", "Slow Adam"]
    assert lines[2]["curves"][1]["losses"] == [8.0, 7.0, None, None]
    assert lines[1]["tuning"] == [{"setting": {"learning_rate": 0.3}, "loss": 1.0}]


def test_seconds_are_those_of_the_costs_where_they_are_known(scores):
    def costing(score, gradients, seconds):
        return dataclasses.replace(score, cost=Cost(gradients, 3.0, 9.0, seconds))

    fast, adam, never = scores[:3]
    assert at_measured_cost([fast, adam]) == [fast, adam]
    known = [costing(fast, 4.0, 0.1), costing(adam, 1.0, 0.2), costing(never, 2.0, 0.7)]
    paced = at_measured_cost(known)
    assert paced[0].curves[0].seconds == pytest.approx([0, 0.4, 0.8, 1.2])
    assert paced[1].curves[2].seconds == pytest.approx([0, 0.1, 0.2, 0.3])
    rows, _ = summarize(paced, [3])
    assert rows[0].relative_seconds == pytest.approx(4 * rows[0].relative_steps)


def test_what_was_not_timed_is_left_empty_and_has_not_diverged(tmp_path):
    nan = math.nan

    def costing(score):
        return dataclasses.replace(score, cost=Cost(2.0, 2.0, 0.2, 0.1))

    dead = [8.0, nan, nan, nan]
    scores = at_measured_cost(
        [
            costing(score("Adam", *ADAM, optimizer="adam")),
            score("Untimed", *FAST),
            score("One lost", FAST[0], FAST[0], dead),
            score("Two of three lost", FAST[0], dead, dead),
            score("One of two lost", FAST[0], dead),
            costing(score("Lost", [8.0, nan, nan, nan], seconds=[0.0, nan, nan, nan])),
        ]
    )
    rows, _ = summarize(scores, [3])
    by_title = {row.title: row for row in rows}
    for title in ("Untimed", "One lost"):
        row = by_title[title]
        assert math.isnan(row.seconds.median) and math.isnan(row.seconds.low)
        assert row.relative_steps == pytest.approx(1 / 3) and math.isnan(row.relative_seconds)
    assert by_title["One lost"].seconds.high == math.inf

    lines = scoreboard_table(rows).splitlines()
    head = [cell.strip() for cell in lines[0].split("|")]
    found = {}
    for line in lines[2:]:
        cells = [cell.strip() for cell in line.split("|")]
        found[cells[1]] = cells[head.index("seconds") :][:3]
    assert found == {
        "Adam": ["0.6", "1.00", "1.00"],
        "Untimed": ["", "0.33", ""],
        "One lost": ["", "0.33", ""],
        "Two of three lost": ["diverged", "not reached", "not reached"],
        "One of two lost": ["diverged", "not reached", "not reached"],
        "Lost": ["diverged", "not reached", "not reached"],
    }

    tree = ElementTree.fromstring(page("Title", scores, rows).partition("\n")[2])
    untimed = tree.findall(".//tbody/tr")[1]
    # Behind all numbers, where the table is sorted by it.
    assert [(cell.text, cell.get("data-value")) for cell in list(untimed)[5:8]] == [
        (None, "1e308"),
        ("0.33", "0.33"),
        (None, "1e308"),
    ]

    json_lines(tmp_path / "results.jsonl", scores, rows, {})
    line = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[2])
    assert line["seconds"] == [None] * 3 and line["relative_seconds"] is None
    assert line["relative_steps"] == pytest.approx(1 / 3)
