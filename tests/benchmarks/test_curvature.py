"""The benchmark of curvature products, at its smallest setting."""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.curvature import report, workloads
from tests.project import ROOT

INSTALLED = {
    "tensorflow": True,
    "torch": all(importlib.util.find_spec(name) for name in ("torch", "curvlinops")),
    "jax": bool(importlib.util.find_spec("jax")),
}


def _record(framework, method, product, count, seconds, length=1.0, **more):
    return {
        "network": "n",
        "batch": 2,
        "framework": framework,
        "version": framework,
        "method": method,
        "product": product,
        "count": count,
        "seconds": seconds,
        "trace_seconds": 0.0,
        "first_call_seconds": 0.0,
        "length": length,
        **more,
    }


def test_table_of_known_times():
    records = [
        _record("tensorflow", "own", "gradient", 1, [0.02, 0.01, 0.03], megabytes=100.0),
        _record("tensorflow", "custom_op", "Gv", 1, [0.03, 0.03, 0.05], megabytes=150.0),
        _record("tensorflow", "custom_op", "Gv", 5, [0.11, 0.07, 0.17]),
        _record("torch", "own", "gradient", 1, [0.04, 0.04, 0.04]),
        _record("torch", "curvlinops", "Gv", 1, [0.06, 0.06, 0.06], length=1.01),
        {"network": "n", "batch": 2, "framework": "jax", "missing": "No module named 'jax'"},
    ]
    records.append(_record("tensorflow", "rounded", "Gv", 1, [0.02] * 3, error=0.0123))
    text = report.section("n", 2, records)
    ours, theirs = (
        next(line for line in text.splitlines() if line.startswith(f"| {name}"))
        for name in ("custom_op", "curvlinops")
    )
    # Marginal: the median of (0.11 - 0.03)/4, (0.07 - 0.03)/4, (0.17 - 0.05)/4.
    assert "30.0 ms (1.50) | 20.0 ms (1.00)" in ours and "150 MB (1.50) | 1.00 |" in ours
    assert "60.0 ms (1.50) | 60.0 ms (1.50)" in theirs and theirs.endswith("| 3.00 |")
    assert "jax is left out: No module named 'jax'" in text
    assert "rounded: the Gv differs by 1.23% of its length." in text
    assert "not so curvlinops 1.0%" in text


def test_parameters_and_directions_are_the_networks():
    sizes = {"convnet": 1_756_426, "resnet20": 272_538}
    for network, size in sizes.items():
        shapes = workloads.shapes(network)
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == size
    vector = workloads.Workload("transformer", 2).vector()
    assert sum(np.sum(v**2) for v in vector.values()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("framework", INSTALLED)
def test_runs(framework, tmp_path):
    flags = ["--networks=convnet", "--batches=2", "--repeats=1", "--products=Gv"]
    command = [sys.executable, "-m", "benchmarks.curvature", *flags, f"--output={tmp_path}"]
    command += ["--methods", "custom_op", "double VJP", "curvlinops", "linearize"]
    command += ["--no-memory", f"--frameworks={framework}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "measures.jsonl").read_text().splitlines()]
    assert "--repeats=1" in lines[0]["command"] and lines[0]["threads"] == 2
    if not INSTALLED[framework]:
        assert [line["missing"] for line in lines[1:]]
        pytest.skip(f"{framework} is not installed: {lines[1]['missing']}")
    lengths = {}
    for line in lines[1:]:
        assert len(line["seconds"]) == 1 and line["seconds"][0] > 0 and line["length"] > 0
        if line["count"] == 1:
            lengths.setdefault(line["product"], []).append(line["length"])
    # TensorFlow has two ways here.
    assert all(np.ptp(same) < 1e-4 * same[0] for same in lengths.values())
    assert re.search(r"\| (custom_op|curvlinops|linearize) \|", done.stdout)
