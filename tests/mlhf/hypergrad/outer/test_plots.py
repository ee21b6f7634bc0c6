"""What is in the pictures of an outer loop."""

import numpy as np
import pytest

from mlhf.hypergrad import plots

RATES = np.linspace(0.1, 0.5, 12).reshape(6, 2)


def test_schedules_have_a_line_a_layer_and_bars_without_steps(tmp_path):
    figure = plots.draw_schedules(
        {"learning_rate": RATES, "momentum": [0.1, 0.2, 0.3], "scale": [[3.0, 4.0]]},
        tmp_path / "schedules.png",
        layers=["first", "second"],
        before={"learning_rate": np.full([6, 2], 0.2), "momentum": [[0.5], [0.6], [0.7]]},
    )
    rates, momentum, scale = figure.axes
    lines = rates.get_lines()
    for line, column, name in zip(lines, RATES.T, ["first", "second"], strict=False):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7))
        np.testing.assert_array_equal(line.get_ydata(), column)
        assert line.get_label() == name
    np.testing.assert_array_equal(lines[2].get_ydata(), 0.2)  # one dashed line for all layers
    assert [line.get_linestyle() for line in momentum.get_lines()] == ["-", "--"]
    assert [bar.get_width() for bar in scale.patches] == [3.0, 4.0]
    assert rates.get_ylabel() == "learning rate" and rates.get_xlabel() == "step of training"
    assert (tmp_path / "schedules.png").stat().st_size > 5000


def test_curves_show_single_numbers_and_gaps():
    records = [
        {
            "step": 1,
            "skipped": False,
            "valid_loss": {"a": 2.0, "b": 3.0},
            "hypergradient": {"l2": 4.0, "w": [np.full(4, 1.0), {"x": np.full(5, 2.0)}]},
            "hyperparameters": {"l2": np.array([0.1]), "w": [np.ones(4), {"x": np.ones(5)}]},
        },
        {"step": 2, "skipped": True, "hyperparameters": {"l2": 0.2}},
    ]
    losses, norms, l2 = plots.draw_curves(records).axes
    np.testing.assert_array_equal(losses.get_lines()[1].get_ydata(), [3.0, np.nan])
    w = [line for line in norms.get_lines() if line.get_label() == "w"][0]
    np.testing.assert_allclose(w.get_ydata(), [np.sqrt(4 + 5 * 4), np.nan])
    np.testing.assert_array_equal(l2.get_lines()[0].get_ydata(), [0.1, 0.2])


@pytest.mark.parametrize("shape", [(12, 4, 5), (12, 4, 5, 1), (12, 4, 5, 3)])
def test_images_share_a_scale(shape, tmp_path):
    images = np.random.default_rng(0).normal(size=shape)
    titles = [str(i) for i in range(12)]
    figure = plots.draw_images(images, tmp_path / "images.png", titles=titles, most=11)
    shown = [axis for axis in figure.axes if axis.get_images()]
    assert [axis.get_title() for axis in shown] == titles[:11]
    if len(shape) == 4 and shape[-1] == 3:
        drawn = np.stack([axis.get_images()[0].get_array() for axis in shown])
        np.testing.assert_allclose([drawn.min(), drawn.max()], [0, 1])
    else:
        limits = {axis.get_images()[0].get_clim() for axis in shown}
        ((low, high),) = limits
        assert low == -high


def test_what_can_not_be_drawn():
    with pytest.raises(ValueError, match=r"Expected the schedule 'rate' of shape \[T\]"):
        plots.draw_schedules({"rate": 0.1})
    with pytest.raises(ValueError, match="of 3 layers, got 2"):
        plots.draw_schedules({"rate": RATES}, layers=["a", "b", "c"])
    for call in (lambda: plots.draw_schedules({}), lambda: plots.draw_curves([])):
        with pytest.raises(ValueError, match="at least one"):
            call()
    with pytest.raises(ValueError, match=r"got the shape \[2, 3\]"):
        plots.draw_images(np.ones([2, 3]))
