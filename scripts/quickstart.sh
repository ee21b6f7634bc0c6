#!/usr/bin/env bash
# Installs the package (once), meta-trains a small optimizer on the digits of scikit-learn,
# and compares it with others on a fresh network. Arguments go to train_val.quickstart.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_package
exec "$VENV_PYTHON" -u -m train_val.quickstart "$@"
