#!/usr/bin/env bash
# Installs the wheel with the oldest and with the newest TensorFlow and Keras of the supported range,
# each by plain pip in an empty environment, and tries both: what users have of the wheel, beside
# replay-rec, which installs a package `replay` too, and a short part of the suite.
#
#   scripts/check_versions.sh             both; 20 minutes on 2 cores and 6 GB on disk
#   scripts/check_versions.sh oldest      Python 3.10, TensorFlow 2.16, Keras 3.5
#   scripts/check_versions.sh newest      Python 3.13 and what pip takes by itself
#
# Writes docs/results/versions/oldest.txt and newest.txt. OLDEST_PYTHON and NEWEST_PYTHON name other
# interpreters.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

SMOKE=(
    tests/custom_op/test_tensorflow_internals.py
    tests/custom_op/test_linearization.py
    tests/custom_op/operators/test_gauss_newton.py
    tests/mlhf/test_keras_internals.py
    tests/mlhf/test_clone.py
    tests/mlhf/models/test_keras_call.py
    tests/mlhf/optimizers/test_protocol.py
    tests/mlhf/hypergrad/test_problem.py
    tests/mlhf/meta_optimizer/test_rule.py
    tests/replay/test_prioritized_replay.py
    tests/test_earlier_files.py
)

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# check END PYTHON [REQUIREMENT ...]
check() {
    local end="$1" interpreter python folder="$work/$1"
    interpreter="$(beyond_pyenv "$2")"
    shift 2
    "$interpreter" -m venv "$folder"
    python="$folder/bin/python"
    "$python" -m pip --disable-pip-version-check wheel -qq --no-deps --wheel-dir "$folder/wheel" .
    echo "$ pip install mlhf $*"
    local began=$SECONDS
    "$python" -m pip --disable-pip-version-check install -qq "$folder"/wheel/*.whl "$@"
    echo "installed in $((SECONDS - began)) seconds by $("$python" -m pip --version | cut -d' ' -f1,2)"
    "$python" -m pip --disable-pip-version-check check
    "$python" --version
    "$python" -m pip --disable-pip-version-check list --format=freeze |
        grep -iE '^(keras|numpy|protobuf|scipy|tensorboard|tensorflow|tensorflow-datasets|tensorflow-metadata)=='

    "$python" -m pip --disable-pip-version-check install -qq pytest hypothesis replay-rec
    copy_wheel_tests "$folder/elsewhere"
    (
        cd "$folder/elsewhere"
        echo "$ the wheel beside replay-rec"
        "$python" -c 'import replay
from replay.metrics import HitRate
from mlhf.replay import PrioritizedReplay
print("replay-rec", replay.__version__, HitRate.__module__, "and", PrioritizedReplay.__module__)'
        MLHF_WHEEL=1 "$python" -m pytest --quiet --disable-warnings -p no:cacheprovider --import-mode=importlib \
            tests/docs/test_wheel.py tests/docs/test_readme.py::test_python_blocks_run
    )
    echo "$ a part of the suite"
    "$python" -m pytest --quiet --disable-warnings -p no:cacheprovider "${SMOKE[@]}"
}

run() {
    local file="docs/results/versions/$1.txt"
    mkdir -p docs/results/versions
    check "$@" 2>&1 | grep --line-buffered -v 'computation_placer\|cudart_stub\|^WARNING: All log' | tee "$file"
}

case "${1:-both}" in
oldest | newest | both) ;;
*) die "Expected oldest, newest or nothing, got $1." ;;
esac
if [ "${1:-both}" != newest ]; then
    run oldest "${OLDEST_PYTHON:-python3.10}" 'tensorflow==2.16.*' 'keras==3.5.*'
fi
if [ "${1:-both}" != oldest ]; then
    run newest "${NEWEST_PYTHON:-python3.13}"
fi
