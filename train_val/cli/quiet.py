"""Loads TensorFlow without its messages about GPUs on a machine that has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# What TensorFlow 2.16 to 2.21 write on a machine without an NVIDIA driver, whatever the log level,
# because the log is not set up yet. The last one reads like a failure but is none.
_NOISE = (
    r"All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    r"cudart_stub\.cc.*Could not find cuda drivers",
    r"(cuda_platform|cuda_executor|cuda_driver|cuda_diagnostics)\.cc.*"
    r"(cuInit|no CUDA-capable device|hostname|driver version|kernel version|libcuda|credentials)",
    r"Unable to register cu(FFT|DNN|BLAS) factory",
)
SIEVE = ["grep", "-v", "-E", "|".join(_NOISE)]
# A driver creates one of these.
_DRIVER = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg")


def load_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices; errors come through.

    Nothing is filtered if there is a driver or the user set `TF_CPP_MIN_LOG_LEVEL` to 0 or 1.
    """
    if "tensorflow" in sys.modules:
        return
    asked = os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1")
    if asked or any(Path(path).exists() for path in _DRIVER):
        return
    try:
        # A separate process: what TensorFlow says before it crashes comes through too.
        sieve = subprocess.Popen(SIEVE, stdin=subprocess.PIPE, stdout=2)
    except OSError:
        return
    assert sieve.stdin is not None
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(sieve.stdin.fileno(), 2)
    sieve.stdin.close()
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        sieve.wait()
