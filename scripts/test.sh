#!/usr/bin/env bash
# Installs the package with its test tools (once), then lints, checks types and tests.
#
#   scripts/test.sh                 everything but the slow tests
#   scripts/test.sh -m slow         the slow ones
#   scripts/test.sh tests/replay    any arguments of pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_package test

"$VENV_PYTHON" -m ruff check --quiet .
"$VENV_PYTHON" -m ruff format --quiet --check . ||
    die "Some files are not formatted: run .venv/bin/ruff format ."
"$VENV_PYTHON" -m mypy
# Most of the time goes into tracing, which uses one core: files run side by side.
exec "$VENV_PYTHON" -m pytest --quiet --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@"
