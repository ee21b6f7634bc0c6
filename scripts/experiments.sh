# Sourced by the experiments, never run: runs commands of train_val, each in a folder of its own.
#
#   each_condition FUNCTION    FUNCTION x_use y_use CG_iter, for the four conditions of the paper
#   run_once FOLDER COMMAND    COMMAND with --model_dir=FOLDER, unless it finished there before;
#                              with another flag than --model_dir if FOLDER_FLAG names one
#   wait_for_all               waits for what still runs; fails if anything failed
#
# With GPUs a command runs on each at a time; without, one command after the other. What was
# killed continues when the script is given again, what finished is not repeated.
#
# $DATA is the folder of the data set, $RUNS where everything is written (runs).

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# From where the script was called: install_package changes to the project's root.
DATA="$(realpath -m -- "${DATA:-$root/cifar10_data}")"
RUNS="$(realpath -m -- "${RUNS:-$root/runs}")"
install_package
[ -d "$DATA" ] || die "Expected the data set in $DATA, found no such folder: set DATA to it, or run" \
    "$VENV_PYTHON train_val/cifar10_download_and_extract.py --data_dir=$DATA for CIFAR-10."

devices=()
if command -v nvidia-smi >/dev/null; then
    mapfile -t devices < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi

CONDITIONS=("x rnn 2" "x rnn 4" "x none 2" "x none 4")

# Runs a function for every condition, as many at a time as there are devices.
each_condition() {
    local condition number=0
    for condition in "${CONDITIONS[@]}"; do
        # shellcheck disable=SC2086  # a condition is three words
        in_turn "$number" "$1" $condition
        number=$((number + 1))
    done
    wait_for_all
}

# in_turn NUMBER COMMAND...: on the device of that number, or here if there is at most one.
in_turn() {
    local number="$1"
    shift
    if [ "${#devices[@]}" -le 1 ]; then
        "$@"
        return
    fi
    local device="${devices[number % ${#devices[@]}]}"
    # A device's next job waits for the one before it.
    if [ -n "${jobs_of[$device]:-}" ]; then
        wait "${jobs_of[$device]}" || failed=1
        running=("${running[@]/${jobs_of[$device]}/}")
    fi
    (
        export CUDA_VISIBLE_DEVICES="$device"
        "$@"
    ) &
    jobs_of[$device]=$!
    running+=("$!")
}

declare -A jobs_of=()
running=()
failed=0

wait_for_all() {
    local job
    for job in "${running[@]}"; do
        [ -z "$job" ] || wait "$job" || failed=1
    done
    running=()
    jobs_of=()
    [ "$failed" -eq 0 ] || die "Some of the runs failed (see above); the same command continues them."
}

run_once() {
    local folder="$1" finished="$1/finished"
    shift
    if [ -f "$finished" ] && [ "$(cat "$finished")" = "$*" ]; then
        printf 'Finished before: %s\n' "$folder"
        return
    fi
    printf '\n%s %s=%s\n' "$*" "${FOLDER_FLAG:---model_dir}" "$folder"
    "$VENV_PYTHON" -u "$@" "${FOLDER_FLAG:---model_dir}=$folder"
    printf '%s\n' "$*" >"$finished"
}
