import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.train_val.comparison.problems import score
from train_val.comparison import pictures, scoreboard_picture
from train_val.comparison.summary import median_curve

NAN = math.nan


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws scores and returns the figure."""

    def draw(scores):
        figures = []
        save = Figure.savefig
        monkeypatch.setattr(
            Figure,
            "savefig",
            lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)),
        )
        scoreboard_picture(scores, tmp_path / "picture.png", "Title")
        assert (tmp_path / "picture.png").stat().st_size > 1000
        assert (tmp_path / "picture.pdf").read_bytes().startswith(b"%PDF")
        return figures[0]

    return draw


def test_a_seed_that_diverges_does_not_end_the_line(drawn):
    one = score("One lost", [8.0, 4.0, 0.2], [8.0, 5.0, 0.3], [8.0, 6.0, NAN])
    two = score("Two lost", [8.0, 4.0, 0.1], [8.0, 5.0, NAN], [8.0, 6.0, NAN])
    figure = drawn([one, two])
    for axes, x in ((figure.axes[0], "steps"), (figure.axes[1], "seconds")):
        for line, entry in zip(axes.lines, (one, two), strict=True):
            # The same as on the page and in the table.
            median = median_curve(entry.curves)
            np.testing.assert_array_equal(line.get_ydata(), median.losses)
            np.testing.assert_array_equal(line.get_xdata(), getattr(median, x))
    assert list(figure.axes[0].lines[0].get_ydata()) == [8.0, 5.0, 0.3]
    assert math.isnan(figure.axes[0].lines[1].get_ydata()[2])


def test_dollars_in_titles_are_dollars(drawn):
    figure = drawn([score(r"costs $\foo$", [8.0, 4.0]), score("a_$x^$", [8.0, 5.0])])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [r"costs $\foo$", "a_$x^$"]


def test_the_band_is_of_the_runs_that_are_left_and_ends_with_the_line(drawn):
    one = score("One lost", [8.0, 4.0, 0.2], [8.0, 5.0, 0.3], [8.0, 6.0, NAN])
    two = score("Two lost", [8.0, 4.0, 0.1], [8.0, 5.0, NAN], [8.0, 6.0, NAN])
    figure = drawn([one, two])
    first, second = [
        {tuple(vertex) for path in band.get_paths() for vertex in path.vertices}
        for band in figure.axes[0].collections
    ]
    assert {(1.0, 4.0), (1.0, 6.0), (2.0, 0.2), (2.0, 0.3)} <= first
    assert {(1.0, 4.0), (1.0, 6.0)} <= second and max(x for x, _ in second) == 1.0


def test_many_lines_get_a_plot_each_and_nothing_that_explodes_hides_them(drawn):
    entries = [score(f"hf:cg={k}", [8.0, 4.0, 0.1 + k], [8.0, 1e6, 0.2 + k]) for k in range(9)]
    figure = drawn(entries)
    panels, (last, seconds) = figure.axes[:-2], figure.axes[-2:]
    assert [panel.get_title() for panel in panels] == [f"hf:cg={k}" for k in range(9)]
    for panel, entry in zip(panels, entries, strict=True):
        # The others in the background, its own in front.
        assert len(panel.lines) == 10 and panel.get_ylim()[1] <= 12
        median = median_curve(entry.curves)
        np.testing.assert_array_equal(panel.lines[-1].get_ydata(), median.losses)
    # Sorted by the loss at the last step, the lowest on top.
    labels = [label.get_text() for label in last.get_yticklabels()]
    assert labels == [f"hf:cg={k}" for k in range(9)] and last.yaxis_inverted()
    assert len(seconds.lines) == 9


def test_a_linear_axis_keeps_its_labels():
    axis = Figure().subplots()
    axis.set_ylim(0.1, 0.7)
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    pictures.grid(axis)
    assert axis.yaxis.get_major_formatter()(0.5, 0) == "50%"
    axis.set_yscale("log")
    axis.set_ylim(0.1, 0.7)
    pictures.grid(axis)
    assert axis.yaxis.get_major_formatter()(0.5, 0) == "0.5"
