"""Where the project is, for tests that start programs or read its files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
