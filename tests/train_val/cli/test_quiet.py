"""The lines about GPUs that stay out on a machine without one, and all that come through."""

import subprocess

from train_val.cli import quiet

GLOG = "0000 00:00:1795993475.292841   11981"
NOISE = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    f"I{GLOG} cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used",
    f"E{GLOG} cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: UNKNOWN (303)",
    "E xla/stream_executor/cuda/cuda_fft.cc:479] Unable to register cuFFT factory: Attempting to",
]
KEPT = [
    f"F{GLOG} cpu_feature_guard.cc:40] The TensorFlow library was compiled to use AVX instructions",
    "ImportError: libstdc++.so.6: cannot open shared object file",
    f"W{GLOG} allocator.cc:31] Allocation of 2147483648 exceeds 10% of free system memory.",
]


def test_errors_come_through_and_noise_does_not():
    done = subprocess.run(
        quiet.SIEVE,
        input="\n".join([*NOISE, *KEPT, *NOISE]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == KEPT
