"""The map: its page is what the runs give, and its commands are those of the pages."""

import shlex

import pytest

from benchmarks.optimizer_map import __main__ as optimizer_map
from benchmarks.optimizer_map.measurements import BOARDS, EQUATIONS, ROOT


def test_the_page_is_what_the_runs_give():
    page = optimizer_map.PAGE.read_text()
    drawn = optimizer_map.with_part(page, "equations", optimizer_map.equations(EQUATIONS))
    assert optimizer_map.with_part(drawn, "boards", optimizer_map.boards(BOARDS)) == page


def test_the_commands_of_equations_are_those_that_made_the_tables():
    made = [row for row in EQUATIONS if (row.path / "table.md").exists()]
    assert len(made) >= 7
    for row in made:
        written = (row.path / "table.md").read_text().partition("`\n")[0].strip("`")
        assert sorted(shlex.split(written)) == sorted(row.command("python"))


def test_commands_of_boards_exist():
    for row in BOARDS:
        command = row.command("python")
        assert not command or (ROOT / command[1]).is_file()


def test_a_part_of_a_page_is_replaced_between_its_marks():
    page = "a\n<!-- MAP: x -->\nold\n<!-- MAP: /x -->\nb\n"
    assert optimizer_map.with_part(page, "x", "new") == page.replace("old", "new")
    with pytest.raises(ValueError, match="MAP: y"):
        optimizer_map.with_part(page, "y", "new")
