"""What all tests share: quiet libraries, two threads, and where the real data is."""

import gc
import os
from pathlib import Path

import pytest

# Before TensorFlow is imported, which reads these once. setdefault: the caller may choose.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets: $DATA, or ../shared/data beside the project."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("DATA") or default)
    if not (path / "cifar-10-batches-bin").is_dir():
        pytest.skip(f"no real data in {path}: set DATA to the folder that has it")
    return path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the cases of slow_cases.txt as slow, before pytest chooses by marks."""
    lines = Path(__file__).with_name("slow_cases.txt").read_text().splitlines()
    named = {line for line in lines if line and not line.startswith("#")}
    for item in items:
        if item.nodeid in named:
            named.remove(item.nodeid)
            item.add_marker(pytest.mark.slow)
    if named and [Path(arg).resolve() for arg in config.args] == [Path(__file__).parent]:
        raise pytest.UsageError(
            "Expected cases that exist in tests/slow_cases.txt: remove or rename "
            + ", ".join(sorted(named))
        )


def pytest_collection_finish() -> None:
    """Modules are there to stay, and tracing makes many small objects: look for garbage less often.

    With Python's own thresholds 7% of the tests' seconds go into looking.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
