#!/usr/bin/env bash
# Builds the wheel, installs it where there is no checkout, and tries there what users have: the
# files that ship, the commands' help, and the Python of the README. About a minute.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_package test

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$VENV_PYTHON" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/wheel" .
"$VENV_PYTHON" -m venv --without-pip "$work/environment"
python="$work/environment/bin/python"
# What the package depends on comes from .venv; the package itself must not, and does not: an
# editable install is a .pth file, which Python reads in its own site-packages only.
site_packages() {
    "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}
site_packages "$VENV_PYTHON" >"$(site_packages "$python")/dependencies.pth"
"$VENV_PYTHON" -m pip --python "$python" --disable-pip-version-check install --quiet --no-deps \
    --no-index "$work"/wheel/*.whl

mkdir -p "$work/elsewhere/tests/docs"
cp README.md "$work/elsewhere"
cp tests/docs/pages.py tests/docs/test_readme.py tests/docs/test_wheel.py "$work/elsewhere/tests/docs"
cd "$work/elsewhere"
MLHF_WHEEL=1 "$python" -m pytest --quiet -p no:cacheprovider --import-mode=importlib \
    tests/docs/test_wheel.py tests/docs/test_readme.py::test_python_blocks_run
echo "The wheel holds what users need."
