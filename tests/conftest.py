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


def pytest_collection_finish() -> None:
    """Modules are there to stay, and tracing makes many small objects: look for garbage less often.

    With Python's own thresholds 7% of the tests' seconds go into looking.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
