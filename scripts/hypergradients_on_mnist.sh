#!/usr/bin/env bash
# The experiments on hypergradients: all of them, or those that are named. All take about an hour
# and a half of a core; tables and pictures go to $RUNS/hypergradients/NAME. What was killed goes on
# with the seed that it was at, when the script is given again.
#
#   DATA=./data SEEDS=0,1,2 scripts/hypergradients_on_mnist.sh [NAME...]
set -euo pipefail
DATA_SET=mnist NAMES=() DATA_MAY_BE_MISSING=yes
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

SEEDS="${SEEDS:-0,1,2}"
FOLDER_FLAG=--output
every=(all_methods chaos drmad_fidelity hyper_cleaning initial_hypergradient learned_schedules
    learned_training_set neumann_overfitting online_tuning penalty_granularity rgd_nn toy
    weight_penalties weighted_error)

# experiment NAME MODULE FLAGS...: runs one.
experiment() {
    run_once "$RUNS/hypergradients/$1" "train_val/experiments/$2.py" "${@:3}"
}

[ "$#" -gt 0 ] || set -- "${every[@]}"
for name in "$@"; do
    # Not through a pipe: grep ends at the first match, and who still writes would be killed.
    grep -qxF -e "$name" <<<"$(printf '%s\n' "${every[@]}")" ||
        die "Expected names among ${every[*]}, got $name."
done
seeds=("--seeds=$SEEDS")
seeded=("--data_dir=$DATA" "${seeds[@]}")
for name in "$@"; do
    case "$name" in
    rgd_nn | toy) ;;
    *) need_data ;;
    esac
done
for name in "$@"; do
    case "$name" in
    initial_hypergradient)
        experiment "$name" learned_schedules "--data_dir=$DATA" --average_seeds=100
        ;;
    chaos) experiment "$name" "$name" "${seeded[@]}" --points=200 ;;
    rgd_nn) experiment "$name" "$name" "${seeds[@]}" ;;
    toy) experiment "$name" "$name" ;;
    *) experiment "$name" "$name" "${seeded[@]}" ;;
    esac
done
