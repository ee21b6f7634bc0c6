#!/usr/bin/env bash
# Installs the package with its test tools (once), then lints, checks types and tests.
#
#   scripts/test.sh                 everything but the slow tests, and once more, with oneDNN off
#                                   where TensorFlow has it on and on where it is off, those that
#                                   depend on it (under a minute)
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
run_tests() {
    "$VENV_PYTHON" -m pytest --quiet --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@"
}
if [ $# -gt 0 ]; then
    run_tests "$@"
    exit
fi
run_tests
onednn=$("$VENV_PYTHON" -c "from custom_op.rules import kernels; print(int(kernels.has_onednn()))" 2>/dev/null)
echo "Once more with TF_ENABLE_ONEDNN_OPTS=$((1 - onednn)), what depends on it:"
export TF_ENABLE_ONEDNN_OPTS=$((1 - onednn))
run_tests -m "onednn and not slow" tests/custom_op tests/train_val/networks/test_resnet.py
scripts/build_site.sh
scripts/check_wheel.sh
