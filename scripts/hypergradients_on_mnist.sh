#!/usr/bin/env bash
# The experiments on hypergradients: all of them, or those that are named. All take about an hour and a
# half of a core; tables and pictures go to $RUNS/hypergradients/NAME.
#
#   DATA=./mnist SEEDS=0,1,2 scripts/hypergradients_on_mnist.sh [NAME...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

SEEDS="${SEEDS:-0,1,2}"
FOLDER_FLAG=--output
seeded=("--data_dir=$DATA" "--seeds=$SEEDS")
declare -A flags_of=(
    [learned_schedules]="${seeded[*]}"
    [initial_hypergradient]="--data_dir=$DATA --average_seeds=100"
    [weight_penalties]="${seeded[*]}"
    [learned_training_set]="${seeded[*]}"
    [penalty_granularity]="${seeded[*]}"
    [chaos]="${seeded[*]} --points=200"
    [toy]=""
    [hyper_cleaning]="${seeded[*]}"
    [weighted_error]="${seeded[*]}"
    [all_methods]="${seeded[*]}"
    [online_tuning]="${seeded[*]}"
    [drmad_fidelity]="${seeded[*]}"
    [rgd_nn]="--seeds=$SEEDS"
    [neumann_overfitting]="${seeded[*]}"
)
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    mapfile -t names < <(printf '%s\n' "${!flags_of[@]}" | sort)
fi
for name in "${names[@]}"; do
    [ -n "${flags_of[$name]+set}" ] || die "Expected names among $(printf '%s\n' \
        "${!flags_of[@]}" | sort | paste --serial --delimiters=' '), got $name."
done
for name in "${names[@]}"; do
    script="$name"
    [ "$name" != initial_hypergradient ] || script=learned_schedules
    # shellcheck disable=SC2086  # flags are words
    run_once "$RUNS/hypergradients/$name" "train_val/experiments/$script.py" ${flags_of[$name]}
done
