# Sourced by the experiments, never run: runs commands of train_val, each in a folder of its own.
#
#   each_condition FUNCTION    FUNCTION x_use y_use CG_iter, for the four conditions of the paper
#   run_once FOLDER COMMAND    COMMAND with --model_dir=FOLDER, unless it finished there before;
#                              with another flag than --model_dir if FOLDER_FLAG names one
#   wait_for_all               waits for what still runs; fails if anything failed
#
# With GPUs a command runs on each at a time (with $CUDA_VISIBLE_DEVICES, on each of those); without,
# one command after the other. What was killed continues when the script is given again, what
# finished is not repeated.
#
# $DATA is the folder of the data set, $RUNS where everything is written (runs), and $META, where a
# script takes one, the folder of a meta-training or the name of an optimizer that ships.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
    die "Expected bash 4.4 or newer, got $BASH_VERSION: install one (on macOS: brew install bash)" \
        "and put it first on the PATH."

# absolute PATH: the same place, named from the root of the file system; it may not exist yet.
absolute() {
    local path="$1" rest=""
    [[ "$path" == /* ]] || path="$PWD/$path"
    until [ -d "$path" ]; do
        rest="/$(basename -- "$path")$rest"
        path="$(dirname -- "$path")"
    done
    path="$(cd -P -- "$path" && pwd)"
    path="${path%/}$rest"
    printf '%s\n' "${path:-/}"
}

# From where the script was called: install_package changes to the project's root.
DATA="$(absolute "${DATA:-$root/cifar10_data}")"
RUNS="$(absolute "${RUNS:-$root/runs}")"
if [[ "${META:-}" == */* ]] || [ -e "${META:-}" ]; then
    META="$(absolute "$META")"
fi
install_package
[ -d "$DATA" ] || die "Expected the data set in $DATA, found no such folder: set DATA to it, or run" \
    "$VENV_PYTHON train_val/cifar10_download_and_extract.py --data_dir=$DATA for CIFAR-10."

devices=()
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    IFS=', ' read -r -a devices <<<"$CUDA_VISIBLE_DEVICES"
elif found="$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null)"; then
    # A driver that has something to say may say it among them.
    mapfile -t devices < <(grep -E '^[0-9]+$' <<<"$found")
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
    fi
    (
        export CUDA_VISIBLE_DEVICES="$device"
        "$@"
    ) &
    jobs_of[$device]=$!
}

# By device, the last job that was started on it: the only one there that may still run.
declare -A jobs_of=()
failed=0

wait_for_all() {
    local job
    for job in "${jobs_of[@]}"; do
        wait "$job" || failed=1
    done
    jobs_of=()
    [ "$failed" -eq 0 ] || die "Some of the runs failed (see above); the same command continues them."
}

# What a command is, to know whether it ran before: its words, and the meta-optimizer that it uses.
described() {
    local word file
    printf '%s' "$*"
    for word in "$@"; do
        file="${word#--meta_ckpt=}"
        [ -d "$file" ] && file="$file/meta_optimizer.npz"
        if [ "$word" != "$file" ] && [ -f "$file" ]; then
            printf '\n%s' "$(cksum <"$file")"
        fi
    done
}

run_once() {
    local folder="$1" finished="$1/finished"
    shift
    if [ -f "$finished" ] && [ "$(cat "$finished")" = "$(described "$@")" ]; then
        printf 'Finished before: %s\n' "$folder"
        return
    fi
    printf '\n%s %s=%s\n' "$*" "${FOLDER_FLAG:---model_dir}" "$folder"
    "$VENV_PYTHON" -u "$@" "${FOLDER_FLAG:---model_dir}=$folder"
    printf '%s\n' "$(described "$@")" >"$finished"
}
