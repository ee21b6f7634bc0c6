"""Pictures of what an outer loop learned: schedules, curves, images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_WIDTH, _HEIGHT = 5.0, 3.2


def draw_schedules(
    schedules: Mapping[str, Any],
    path: str | Path | None = None,
    *,
    layers: Sequence[str] | None = None,
    before: Mapping[str, Any] | None = None,
) -> Any:
    """Draws hyperparameters over the steps of training, each in a plot, with a line per layer.

    Args:
      schedules: A mapping from names to arrays [T], [T, 1] or [T, G]; or [1, G], drawn as bars by
        layer.
      path: The file to write, whose suffix sets the format; None for no file.
      layers: The names of the G layers.
      before: Earlier schedules of the same names, drawn with dashes.

    Returns:
      The Matplotlib figure.

    Raises:
      ValueError: If there is no schedule, or one has another shape.
    """
    tables = {name: _table(name, value, layers) for name, value in schedules.items()}
    if not tables:
        raise ValueError("Expected at least one schedule to draw, got none.")
    earlier = {name: _table(name, value, layers) for name, value in (before or {}).items()}
    figure, axes = _figure(len(tables))
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        columns = table.shape[1]
        labels = [f"layer {i + 1}" for i in range(columns)] if columns > 1 else ["learned"]
        if layers and columns > 1:
            labels = list(layers)
        if len(table) == 1:
            axis.barh(labels, table[0], color=_colors(columns))
            axis.invert_yaxis()
            axis.set_xlabel(_text(name))
            if name in earlier:
                axis.plot(earlier[name][0], range(columns), "k|", ms=10)
                axis.set_xlabel(f"{_text(name)} (black: before)")
            continue
        steps = np.arange(1, len(table) + 1)
        for i, color in enumerate(_colors(columns)):
            axis.plot(steps, table[:, i], color=color, lw=1.3, label=labels[i])
            if name in earlier and np.ptp(earlier[name], axis=1).any():
                axis.plot(steps, earlier[name][:, i], color=color, lw=0.8, ls="--")
        if name in earlier and not np.ptp(earlier[name], axis=1).any():
            axis.plot(steps, earlier[name][:, 0], color="0.4", lw=1, ls="--", label="before")
        axis.set(xlabel="step of training", ylabel=_text(name))
        if columns > 1 or name in earlier:
            axis.legend(framealpha=0.7, fontsize=7)
    return _done(figure, path)


def draw_curves(records: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Any:
    """Draws an outer loop: validation losses, norms of hypergradients, hyperparameters.

    Args:
      records: `HyperOptimizer.records`, or the result of `read_records`. Steps that were skipped
        leave gaps.
      path: As for `draw_schedules`.

    Returns:
      The Matplotlib figure, with a plot for each hyperparameter of one number.

    Raises:
      ValueError: If there is no record.
    """
    if not records:
        raise ValueError("Expected the records of at least one outer step, got none.")
    steps = [int(record["step"]) for record in records]
    losses: dict[str, list[float]] = {}
    norms: dict[str, list[float]] = {}
    single: dict[str, list[float]] = {}
    for row, record in enumerate(records):
        done = not bool(record.get("skipped", False))
        values = record["valid_loss"] if done else {}
        values = values if isinstance(values, Mapping) else {"validation loss": values}
        slopes = record["hypergradient"] if done else {}
        for found, into in (
            ({name: float(value) for name, value in values.items()}, losses),
            ({name: _norm(value) for name, value in slopes.items()}, norms),
            (
                {
                    name: float(np.reshape(value, []))
                    for name, value in record["hyperparameters"].items()
                    if not isinstance(value, Mapping | Sequence) and np.size(value) == 1
                },
                single,
            ),
        ):
            for name, value in found.items():
                into.setdefault(name, [math.nan] * len(records))[row] = value
    figure, axes = _figure(2 + len(single))
    for name, curve in losses.items():
        axes[0].plot(steps, curve, marker=".", lw=1.3, label=name)
    axes[0].set_ylabel("validation loss")
    if len(losses) > 1:
        axes[0].legend(framealpha=0.7, fontsize=7)
    for name, curve in norms.items():
        axes[1].plot(steps, curve, marker=".", lw=1.3, label=_text(name))
    axes[1].set(ylabel="norm of the hypergradient")
    if any(value > 0 for curve in norms.values() for value in curve):
        axes[1].set_yscale("log")
    if norms:
        axes[1].legend(framealpha=0.7, fontsize=7)
    for axis, (name, curve) in zip(axes[2:], single.items(), strict=True):
        axis.plot(steps, curve, marker=".", lw=1.3)
        axis.set_ylabel(_text(name))
    for axis in axes:
        axis.set_xlabel("outer step")
        axis.xaxis.get_major_locator().set_params(integer=True)
    return _done(figure, path)


def draw_images(
    images: Any,
    path: str | Path | None = None,
    *,
    titles: Sequence[str] | None = None,
    most: int = 50,
    symmetric: bool | None = None,
) -> Any:
    """Draws learned images, all with the same scale of grey or colour.

    Args:
      images: An array [N, height, width], [N, height, width, 1] or, in colours,
        [N, height, width, 3].
      path: As for `draw_schedules`.
      titles: The title above each image.
      most: The number of images to draw, from the first.
      symmetric: Whether images of one channel are drawn with zero in white, negative values in blue
        and positive ones in red; by default if there are negative and positive values.

    Returns:
      The Matplotlib figure.

    Raises:
      ValueError: If the images have another shape.
    """
    images = np.asarray(images, np.float64)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.size == 0 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)):
        raise ValueError(
            "Expected images [N, height, width], [N, height, width, 1] or [N, height, width, 3], "
            f"got the shape {list(images.shape)}."
        )
    images = images[:most]
    low, high = float(images.min()), float(images.max())
    if symmetric is None:
        symmetric = images.ndim == 3 and low < 0 < high
    if symmetric:
        # A single outlier would make all other pixels pale.
        high = float(np.quantile(np.abs(images), 0.995)) or 1.0
        low = -high
    columns = min(10, len(images))
    rows = -(-len(images) // columns)
    figure = _new((1.1 * columns + 0.7, 1.25 * rows + 0.2))
    axes = figure.subplots(rows, columns, squeeze=False)
    shown = None
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i >= len(images):
            continue
        if images.ndim == 4:
            axis.imshow((images[i] - low) / ((high - low) or 1.0))
        else:
            cmap = "RdBu_r" if symmetric else "gray"
            shown = axis.imshow(images[i], cmap=cmap, vmin=low, vmax=high)
        if titles is not None:
            axis.set_title(titles[i], fontsize=8)
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.8, fraction=0.03, pad=0.02)
    return _done(figure, path)


def _table(name: str, value: Any, layers: Sequence[str] | None) -> np.ndarray:
    table = np.asarray(value, np.float64)
    if table.ndim == 1:
        table = table[:, np.newaxis]
    if table.ndim != 2 or table.size == 0:
        raise ValueError(
            f"Expected the schedule {name!r} of shape [T], [T, 1], [T, G] or [1, G], got "
            f"{list(np.shape(value))}."
        )
    if layers is not None and table.shape[1] not in (1, len(layers)):
        raise ValueError(
            f"Expected the schedule {name!r} of {len(layers)} layers, got {table.shape[1]}."
        )
    return table


def _norm(value: Any) -> float:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return math.sqrt(sum(_norm(part) ** 2 for part in value))
    return float(np.linalg.norm(np.asarray(value, np.float64)))


def _text(name: str) -> str:
    return name.replace("_", " ")


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    if count <= 10:
        return [f"C{i}" for i in range(count)]
    return list(colormaps["viridis"](np.linspace(0, 0.95, count)))


def _figure(plots: int) -> tuple[Any, list[Any]]:
    columns = min(3, plots)
    rows = -(-plots // columns)
    figure = _new((_WIDTH * columns, _HEIGHT * rows))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[plots:]:
        axis.remove()
    for axis in axes[:plots]:
        axis.grid(alpha=0.3)
    return figure, axes[:plots]


def _new(size: tuple[float, float]) -> Any:
    # pyplot would keep state and may want a screen; this figure needs neither.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _done(figure: Any, path: str | Path | None) -> Any:
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
