#!/usr/bin/env python3
"""Writes the requirements with hashes from pyproject.toml and requirements/constraints.txt.

    pip install uv
    python scripts/lock_requirements.py

`constraints.txt` pins the versions; this resolves their dependencies on Python 3.10 to 3.13 and on
every platform, with the hashes of all files that the index lists for a version:

    build.txt      for building and installing the package
    run.txt        for running it
    test.txt       run.txt and the test tools
    benchmark.txt  run.txt and the libraries that benchmarks compare with

With `--check` nothing is written, and the exit status is 1 if a file would change.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
PINS = FOLDER / "constraints.txt"
OLDEST = "3.10"
BUILD = ("pip", "setuptools", "wheel")
HEADER = "# Made by scripts/lock_requirements.py from constraints.txt: renew it, don't edit it.\n"
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)")


def pins(text: str) -> dict[str, set[str]]:
    """Returns the versions that a file of requirements pins, by name."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if match := PIN.match(line):
            found.setdefault(match[1].lower().replace("_", "-"), set()).add(match[2])
    return found


def entries(text: str) -> list[str]:
    """Returns the requirements of a locked file, each with the lines of its hashes."""
    return [entry for entry in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE) if entry]


def resolve(source: Path, extra: str | None = None) -> list[str]:
    """Asks uv for the requirements of a source.

    Args:
      source: `pyproject.toml`, or a file of requirements.
      extra: An extra of the former.

    Returns:
      The requirements, each with its hashes.

    Raises:
      SystemExit: If uv is missing or finds no solution, with its message.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "locked.txt"
        command = ["uv", "pip", "compile", str(source), "--output-file", str(output)]
        command += ["--universal", "--python-version", OLDEST, "--constraint", str(PINS)]
        command += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        command += ["--extra", extra] if extra else []
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            sys.exit("Expected the command uv, found none: pip install uv.")
        if done.returncode:
            sys.exit(f"Expected uv to resolve {source.name}, it could not: {done.stderr.strip()}")
        return entries(output.read_text())


def locked() -> dict[str, str]:
    """Returns the contents of the files, by name."""
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "build.in"
        build.write_text("\n".join(BUILD))
        made = {"build.txt": resolve(build)}
    project = ROOT / "pyproject.toml"
    made["run.txt"] = resolve(project)
    for extra in ("test", "benchmark"):
        own = [entry for entry in resolve(project, extra) if entry not in made["run.txt"]]
        made[f"{extra}.txt"] = ["--requirement run.txt\n", *own]
    return {name: HEADER + "".join(found) for name, found in made.items()}


def main() -> None:
    """Writes the files, or checks them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    arguments = parser.parse_args()
    made = locked()
    wanted = pins(PINS.read_text())
    for name in ("build.txt", "run.txt", "test.txt"):
        for package, versions in pins(made[name]).items():
            if not versions <= wanted.get(package, set()):
                sys.exit(
                    f"Expected a pin of {package} in {PINS}, found {wanted.get(package)} for "
                    f"{sorted(versions)}: add it."
                )
    changed = [
        name
        for name, text in made.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text
    ]
    if arguments.check:
        sys.exit(f"Not what would be written: {', '.join(changed)}." if changed else 0)
    for name in changed:
        (FOLDER / name).write_text(made[name])
        print(f"Wrote requirements/{name}.")


if __name__ == "__main__":
    main()
