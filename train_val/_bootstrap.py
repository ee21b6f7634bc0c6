"""Lets `python train_val/NAME.py` import the project's packages without an install.

A script's own folder comes first on `sys.path`; there `data` would be a top-level module
and `train_val` none. Importing this module puts the project's root in its place.
"""

import sys
from pathlib import Path

_here = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _here]
sys.path.insert(0, str(_here.parent))

import train_val  # noqa: E402, F401  (before TensorFlow, which it keeps quiet)
