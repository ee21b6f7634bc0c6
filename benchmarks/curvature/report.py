"""A table of what was measured."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.curvature.measures import GAUSS_NEWTON, GRADIENT, HESSIAN, OWN

Records = list[dict[str, Any]]
# Beyond it a result is another one than custom_op's, and not rounding in float32.
TOLERANCE = 1e-4


def page(records: Records) -> str:
    """Returns a page of Markdown of all records; the first says where they are from."""
    head, rest = records[0], records[1:]
    configurations = dict.fromkeys((r["network"], r["batch"]) for r in rest)
    versions = dict.fromkeys(r["version"] for r in rest if "version" in r)
    text = [
        "# Curvature products\n",
        f"    {head['command']}\n",
        f"{head['processor']}, {head['processors']} processors, {head['threads']} threads each; "
        f"{head['system']}, Python {head['python']}; {'; '.join(versions)}; float32.\n",
    ]
    text += [section(network, batch, rest) for network, batch in configurations]
    return "\n".join(text)


def section(network: str, batch: int, records: Records) -> str:
    """Returns the table of one network at one batch size."""
    chosen = [r for r in records if (r.get("network"), r.get("batch")) == (network, batch)]
    measured = [r for r in chosen if "seconds" in r]
    lines = [
        f"## {network}, batch {batch}\n",
        "| | gradient | first Gv | marginal Gv | Hv | marginal Hv | tracing Gv | first call "
        "| memory | times custom_op's marginal Gv |",
        "| --- |" + " --- |" * 9,
    ]
    ours = None
    for framework in dict.fromkeys(r["framework"] for r in measured):
        found = {
            (r["method"], r["product"], r["count"]): r
            for r in measured
            if r["framework"] == framework
        }
        own = found[OWN, GRADIENT, 1]
        gradient = statistics.median(own["seconds"])
        lines.append(
            f"| **{own['version']}** | {1e3 * gradient:.1f} ms | | | | | "
            f"{own['trace_seconds']:.1f} s | {own['first_call_seconds']:.1f} s "
            f"| {_memory(own)} | |"
        )
        for method in dict.fromkeys(m for m, product, _ in found if m != OWN):
            first, marginal = _times(found, method, GAUSS_NEWTON)
            hessian, further = _times(found, method, HESSIAN)
            ours = ours or marginal
            once = found.get((method, GAUSS_NEWTON, 1), found.get((method, HESSIAN, 1), {}))
            cells = [_time(t, gradient) for t in (first, marginal, hessian, further)]
            cells += [f"{once['trace_seconds']:.1f} s", f"{once['first_call_seconds']:.1f} s"]
            cells += [_memory(once, own)]
            cells += [f"{marginal / ours:.2f}" if marginal and ours else ""]
            lines.append(f"| {method} | | {' | '.join(cells)} |")
    lines.append("")
    lines += [
        f"{r['framework']} is left out: {r['missing']} (`pip install '.[benchmark]'`)."
        for r in chosen
        if "missing" in r
    ]
    return "\n".join(lines + _differences(measured)) + "\n"


def _times(found: dict, method: str, product: str) -> tuple[float | None, float | None]:
    """Median seconds of a first product, and of each further one at the same point."""
    counts = sorted(count for m, p, count in found if (m, p) == (method, product))
    if not counts:
        return None, None
    once = found[method, product, 1]["seconds"]
    first = statistics.median(once)
    if len(counts) == 1:
        # Nothing is kept from one product to the next.
        return first, first if product == GAUSS_NEWTON else None
    more = found[method, product, counts[-1]]["seconds"]
    further = counts[-1] - 1
    return first, statistics.median((b - a) / further for a, b in zip(once, more, strict=True))


def _time(seconds: float | None, gradient: float) -> str:
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.1f} ms ({seconds / gradient:.2f})"


def _memory(record: dict[str, Any], own: dict[str, Any] | None = None) -> str:
    if "megabytes" not in record:
        return ""
    ratio = ""
    if own is not None and own.get("megabytes"):
        ratio = f" ({record['megabytes'] / own['megabytes']:.2f})"
    return f"{record['megabytes']:.0f} MB{ratio}"


def _differences(measured: Records) -> list[str]:
    """Says whose results have another length than those of custom_op."""
    lines = [
        f"{r['method']}: the {r['product']} differs by {r['error']:.2%} of its length."
        for r in measured
        if "error" in r and r["count"] == 1
    ]
    single = [r for r in measured if r["count"] == 1 and "error" not in r]
    for product in (GRADIENT, GAUSS_NEWTON, HESSIAN):
        same = [r for r in single if r["product"] == product]
        if len(same) < 2:
            continue
        right = same[0]["length"]
        off = [(abs(r["length"] / right - 1), r["method"], r["framework"]) for r in same[1:]]
        wrong = [
            f"{method if method != OWN else framework} {error:.1%}"
            for error, method, framework in off
            if not error < TOLERANCE
        ]
        close = max((error for error, *_ in off if error < TOLERANCE), default=0.0)
        close = max(close, 1e-7)  # what is told apart in float32
        lines.append(
            f"Lengths of the {product} agree to {close:.0e}"
            + (f"; not so {', '.join(wrong)}." if wrong else ".")
        )
    return lines
