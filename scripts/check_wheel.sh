#!/usr/bin/env bash
# Builds the wheel, installs it where there is no checkout, and tries there what users have: the
# files that ship, the commands, and the Python of the README, beside another project's package
# `replay`; the latter without tensorflow-datasets, which nothing but its own loaders needs. Two
# minutes.
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
# What replay-rec of the package index does: a package `replay` beside ours.
mkdir "$(site_packages "$python")/replay"
echo 'OWNER = "another project"' >"$(site_packages "$python")/replay/__init__.py"

copy_wheel_tests "$work/elsewhere"
cd "$work/elsewhere"
check() {
    MLHF_WHEEL=1 "$python" -m pytest --quiet -p no:cacheprovider --import-mode=importlib "$@"
}
check tests/docs/test_wheel.py

# Hides tensorflow-datasets: importing it fails as it does where it is not installed.
cat >"$(site_packages "$python")/sitecustomize.py" <<'PYTHON'
import sys


class NotInstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "tensorflow_datasets":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled)
PYTHON
MLHF_WITHOUT_TFDS=1 check tests/docs/test_wheel.py tests/docs/test_readme.py::test_python_blocks_run \
    -k "readme or pretrained or tensorflow_datasets"
echo "The wheel holds what users need, with tensorflow-datasets and without."
