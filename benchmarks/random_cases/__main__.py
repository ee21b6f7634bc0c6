"""Checks random cases against independent references, and counts which pass or fail.

    python -m benchmarks.random_cases networks --count=2000 --report=docs/results/random_networks

See benchmarks/README.md. To continue a stopped run, give the same command again.
"""

from __future__ import annotations

import argparse
import pkgutil
import shlex
import sys
from pathlib import Path

from benchmarks.random_cases import report, runner

KINDS = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.ispkg)


def main(arguments: list[str] | None = None) -> int:
    """Reads the flags, checks the cases, and writes the report.

    Args:
      arguments: The command line; by default that of the process.

    Returns:
      The exit status: 1 if a case failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.random_cases",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS, help="the kind of cases")
    parser.add_argument("--count", type=int, default=100, help="number of cases")
    parser.add_argument("--start", type=int, default=0, help="the first case's seed")
    parser.add_argument("--output", type=Path, help="folder of records.jsonl; runs/random_KIND")
    parser.add_argument("--report", type=Path, help="folder of the summary; default: --output")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--chunk", type=int, default=40, help="number of cases per process")
    parser.add_argument(
        "--timeout", type=float, default=300, help="largest number of seconds per case"
    )
    parser.add_argument("--thorough", action="store_true", help="all modes for every case")
    parser.add_argument("--again", action="store_true", help="check failed cases again")
    flags = parser.parse_args(arguments)
    if min(flags.count, flags.jobs, flags.chunk) < 1 or flags.start < 0 or not flags.timeout > 0:
        parser.error("expected --count, --jobs, --chunk and --timeout above 0, --start at least 0")
    output = flags.output or Path("runs") / f"random_{flags.kind}"
    records = runner.run(
        flags.kind,
        range(flags.start, flags.start + flags.count),
        output,
        again=runner.failed if flags.again else lambda record: False,
        chunk=flags.chunk,
        jobs=flags.jobs,
        thorough=flags.thorough,
        timeout=flags.timeout,
    )
    given = [flags.kind, f"--count={flags.count}", f"--start={flags.start}"]
    given += ["--thorough"] if flags.thorough else []
    command = shlex.join(["python", "-m", "benchmarks.random_cases", *given])
    report.write(flags.report or output, command, list(records.values()))
    wrong = [record["seed"] for record in records.values() if runner.failed(record)]
    print(f"{len(records)} cases, {len(wrong)} failed{': ' if wrong else ''}{wrong or ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
