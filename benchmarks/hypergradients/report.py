"""Writes tables and pictures of the measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
# In the order of the tables.
NAMES = {
    "reverse, stored": "`reverse`",
    "reverse, checkpoints": '`reverse(storage="checkpoints")`',
    "reverse, disk": '`reverse(storage="disk")`',
    "reversible": "`reversible`",
    "forward": "`forward`",
    "truncated": "`truncated`, the last 100",
    "implicit": "`implicit`, 20 iterations, the penalty alone",
    "autograd": "PyTorch, unrolled by hand",
    "higher": "higher",
    "torchopt": "torchopt",
    "betty": "betty",
    "hypertorch": "hypertorch's `reverse`, from source",
}
# They give another number by design.
APPROXIMATE = ("truncated", "implicit")
STYLES = {"tensorflow": "-", "torch": "--"}


def _sorted(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (list(NAMES).index(row["method"]), row["steps"]))


def write(rows: list[Row], folder: Path) -> None:
    """Writes `benchmarks.md` and its pictures.

    Args:
      rows: The results of `__main__.measure` with their requests.
      folder: The folder for the files.
    """
    rows = _sorted(rows)
    draw_lengths(rows, folder / "benchmarks_steps.png")
    draw_sizes(rows, folder / "benchmarks_sizes.png")
    (folder / "benchmarks.md").write_text(page(rows))


def page(rows: list[Row]) -> str:
    """Returns a page of Markdown."""
    first = next(row for row in rows if "parameters" in row and row["hidden"] == 50)
    versions = sorted({row["version"] for row in rows if "version" in row})
    lengths = sorted({row["steps"] for row in _side_by_side(rows)})
    text = [
        "# What hypergradients cost",
        "",
        "    python -m benchmarks.hypergradients --output=docs/results/hypergradients \\",
        f"        --steps {' '.join(map(str, lengths))}",
        "",
        f"A tanh network 784-50-50-50-10 ({first['parameters']:,} weights) on noisy classes, "
        "batches of 50, momentum; the hyperparameters are the learning rate and the logarithm of a "
        "penalty. All methods train from the same weights through the same batches. "
        f"{' and '.join(versions)}, {first['threads']} thread each, float32. Each figure is from a "
        "process of its own.",
        "",
        "- *training*: the time of the method over that of plain training in the same framework, "
        "taken in turns in one process: by the clock, and in brackets by processor time, which "
        "other programs disturb less.",
        "- *ms a step*: processor time of the method, over T.",
        "- *MB*: how far the process's memory rises, beyond what a training of 4 steps takes.",
        "- *error*: the largest relative difference of the hypergradient from `reverse` in "
        "float64; and, in the next column, from our float32 `reverse`.",
        "- *told*: the memory and the ratio that `estimate` tells beforehand.",
        "",
        *_agreement(rows),
    ]
    for steps in lengths:
        text += ["", f"## T = {steps:,}", "", *table(rows, steps)]
    text += [
        "",
        "![Memory and time against T](benchmarks_steps.png)",
        "",
        "## Forward against reverse",
        "",
        "By the number of hyperparameters H and of weights P, T = 100, float32, processor time.",
        "",
        *sizes(rows),
        "",
        "![Time and memory against H and P](benchmarks_sizes.png)",
        "",
    ]
    return "\n".join(text)


def _side_by_side(rows: list[Row]) -> list[Row]:
    return [r for r in rows if r["columns"] == 2 and r["hidden"] == 50]


def _find(rows: list[Row], **fields: Any) -> Row | None:
    for row in rows:
        if all(row.get(name) == value for name, value in fields.items()):
            return row
    return None


def _exact(rows: list[Row], steps: int) -> list[float] | None:
    row = _find(_side_by_side(rows), framework="tensorflow", dtype="float64", steps=steps)
    return None if row is None else row.get("hypergradient")


def difference(found: list[float], of: list[float] | None) -> float:
    """Returns the largest relative difference of the entries that are not NaN."""
    if of is None:
        return float("nan")
    pairs = [(a, b) for a, b in zip(found, of, strict=True) if not np.isnan(a)]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def ratio(row: Row, kind: str = "") -> float:
    """Returns the method's shortest time divided by that of plain training."""
    return min(row[f"{kind}seconds"]) / min(row[f"{kind}train_seconds"])


def megabytes(row: Row) -> float:
    """Returns the peak of memory beyond that of a few steps."""
    return max(0.0, row["megabytes"] - row["megabytes_of_few_steps"])


def _agreement(rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        if row["framework"] == "torch" and row["dtype"] == "float64" and "hypergradient" in row:
            exact = _exact(rows, row["steps"])
            if exact:
                lines.append(
                    f"At T = {row['steps']:,} PyTorch's autograd and `reverse`, both in float64, "
                    f"differ by a relative {difference(row['hypergradient'], exact):.0e}."
                )
    return lines


def table(rows: list[Row], steps: int) -> list[str]:
    """Returns the table of one length."""
    chosen = [r for r in _side_by_side(rows) if r["steps"] == steps and r["dtype"] == "float32"]
    exact = _exact(rows, steps)
    ours = _find(chosen, method="reverse, stored") or {}
    lines = [
        "| | training | ms a step | MB | error | from ours | told: MB, training |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in chosen:
        name = NAMES[row["method"]]
        if "failed" in row:
            lines.append(f"| {name} | {row['failed']} | | | | | |")
            continue
        told = row.get("estimate")
        own = ours.get("hypergradient")
        errors = [f"{difference(row['hypergradient'], of):.0e}" for of in (exact, own)]
        if row is ours:
            errors[1] = ""
        if row["method"] in APPROXIMATE:
            errors = ["(another number)", ""]
        lines.append(
            f"| {name} | {ratio(row):.1f} ({ratio(row, 'processor_'):.1f}) "
            f"| {1e3 * min(row['processor_seconds']) / steps:.2f} | {megabytes(row):,.0f} "
            f"| {errors[0]} | {errors[1]} "
            f"| {f'{told[0]:,.1f}, {told[1]:.1f}' if told else ''} |"
        )
    return lines


def sizes(rows: list[Row]) -> list[str]:
    """Returns the table of forward against reverse."""
    found: dict[tuple[int, int], dict[str, Row]] = {}
    for row in _sized(rows):
        found.setdefault((row["columns"], row["parameters"]), {})[row["method"]] = row
    lines = [
        "| H | P | training, ms a step | `forward`, times training | `reverse` | `forward`, MB "
        "| `reverse`, MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (columns, parameters), both in sorted(found.items(), key=lambda item: item[0][::-1]):
        if len(both) < 2:
            continue
        forward, reverse = both["forward"], both["reverse, stored"]
        train = min(forward["processor_train_seconds"] + reverse["processor_train_seconds"])
        lines.append(
            f"| {columns} | {parameters:,} | {1e3 * train / forward['steps']:.2f} "
            f"| {ratio(forward, 'processor_'):.1f} | {ratio(reverse, 'processor_'):.1f} "
            f"| {megabytes(forward):,.0f} | {megabytes(reverse):,.0f} |"
        )
    return lines


def _sized(rows: list[Row]) -> list[Row]:
    methods = ("forward", "reverse, stored")
    return [
        r
        for r in rows
        if r["steps"] == 100
        and r["method"] in methods
        and r["dtype"] == "float32"
        and "failed" not in r
    ]


def _axes(columns: int) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(4.0 * columns, 3.4), layout="constrained")


def draw_lengths(rows: list[Row], path: Path) -> None:
    """Draws memory and time against T."""
    import matplotlib

    colors = matplotlib.colormaps["tab20"]
    figure, (memory, time) = _axes(2)
    figure.set_size_inches(9.4, 3.6)
    chosen = [r for r in _side_by_side(rows) if r["dtype"] == "float32"]
    for i, method in enumerate(dict.fromkeys(row["method"] for row in chosen)):
        every = [row for row in chosen if row["method"] == method]
        own = [row for row in every if "failed" not in row]
        steps = [row["steps"] for row in own]
        color = colors((2 * i) % 20 + i // 10)
        style = {"ls": STYLES[every[0]["framework"]], "marker": "o", "ms": 3, "lw": 1.3}
        style |= {"color": color, "label": method}
        memory.plot(steps, [max(1.0, megabytes(row)) for row in own], **style)
        time.plot(steps, [ratio(row, "processor_") for row in own], **style)
        for row in every:
            if row.get("failed", "").endswith(" GB"):
                most = 1e3 * float(row["failed"].split()[1])
                memory.plot([row["steps"]], [most], "x", color="0.3", ms=6)
    for axis, label in ((memory, "MB"), (time, "times plain training (processor time)")):
        axis.set(xscale="log", xlabel="T (×: ended for its memory)", ylabel=label)
        axis.grid(alpha=0.3)
    time.set_xlabel("T")
    memory.set_yscale("log")
    figure.legend(*time.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=100)


def draw_sizes(rows: list[Row], path: Path) -> None:
    """Draws time and memory of forward and reverse against H and P."""
    figure, axes = _axes(4)
    sized = [{**row, "thousands": row["parameters"] / 1e3} for row in _sized(rows)]
    for method in ("forward", "reverse, stored"):
        own = [row for row in sized if row["method"] == method]
        by_columns = sorted((r for r in own if r["hidden"] == 50), key=lambda r: r["columns"])
        by_size = sorted((r for r in own if r["columns"] == 4), key=lambda r: r["parameters"])
        for axis, chosen, x, y in (
            (axes[0], by_columns, "columns", lambda row: min(row["processor_seconds"])),
            (axes[1], by_columns, "columns", megabytes),
            (axes[2], by_size, "thousands", lambda row: min(row["processor_seconds"])),
            (axes[3], by_size, "thousands", megabytes),
        ):
            axis.plot([row[x] for row in chosen], [y(row) for row in chosen], "o-", label=method)
    for axis, x, y in zip(
        axes,
        ("H (P = 44,860)", "H (P = 44,860)", "P in thousands (H = 4)", "P in thousands (H = 4)"),
        ("processor s", "MB", "processor s", "MB"),
        strict=True,
    ):
        axis.set(xlabel=x, ylabel=y, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(framealpha=0.6)
    figure.savefig(path, dpi=75)
