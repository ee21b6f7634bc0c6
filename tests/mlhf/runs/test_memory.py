"""The allocator: chosen before TensorFlow is imported, and never against the user's own choice."""

import os
import subprocess
import sys

import pytest

import mlhf
from tests.docs.pages import ROOT

PROGRAM = """
import resource, mlhf
kept = mlhf.keep_freed_memory()
import tensorflow as tf
x = tf.ones([1 << 24])
for _ in range(3):
    x = x + 1.0
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(10):
    x = x + 1.0
print(kept, faults() - before)
"""


def run(**environment):
    own = {name: v for name, v in os.environ.items() if not name.startswith("TF_CPU")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**own, "PYTHONPATH": str(ROOT), **environment},
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_freed_memory_is_kept_unless_the_user_says_no():
    kept, faults = run()
    refused, many = run(TF_CPU_ALLOCATOR_USE_BFC="0")
    assert kept and not refused
    assert faults < 10_000
    # Ten tensors of 64 MiB are 160,000 pages, unless the system hands out huge ones.
    if many < 40_000:
        pytest.skip("huge pages")
    assert faults < many / 4


def test_it_is_too_late_once_tensorflow_is_imported(monkeypatch):
    monkeypatch.delenv("TF_CPU_ALLOCATOR_USE_BFC", raising=False)
    import tensorflow  # noqa: F401

    assert not mlhf.keep_freed_memory()
    assert "TF_CPU_ALLOCATOR_USE_BFC" not in os.environ
