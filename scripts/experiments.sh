# Sourced by the experiments, never run: runs commands of train_val, each in a folder of its own.
#
#   each_condition FUNCTION    FUNCTION x_use y_use CG_iter, for the four conditions of the paper
#   run_once FOLDER COMMAND    COMMAND with --model_dir=FOLDER, unless it finished there before;
#                              with another flag than --model_dir if FOLDER_FLAG names one
#   wait_for_all               waits for what still runs; fails if anything failed
#   flags_of NAME              sets `flags` to what was given for all commands and for NAME
#
# With GPUs a command runs on each at a time (with $CUDA_VISIBLE_DEVICES, on each of those); without,
# one command after the other. What was killed continues when the script is given again, what
# finished is not repeated.
#
# $DATA is the folder with the data sets (data): cifar-10-batches-bin/, mnist/ and imagenet/ in it, or
# the files of the one data set that the script needs. $RUNS is where everything is written (runs),
# and $META, where a script takes one, the folder of a meta-training or the name of an optimizer that
# ships. Ctrl-C and SIGTERM reach the commands, which save; a second one ends them at once.
#
# A script says before it sources this what it needs and takes:
#
#   DATA_SET=cifar10           cifar10, mnist or imagenet
#   NAMES=(meta eval)          its commands by name; flags given to it go to all of them, and those
#                              after --only-NAME to that one alone

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

# The comment at the top of a script is its help.
case " $* " in
*" --help "* | *" -h "*)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

# From where the script was called: install_package changes to the project's root.
if [ -z "${DATA:-}" ]; then
    DATA="$root/data"
    # Where the commands of README download CIFAR-10 to.
    [ -d "$DATA" ] || [ "$DATA_SET" != cifar10 ] || DATA="$root/cifar10_data"
fi
DATA="$(absolute "$DATA")"
RUNS="$(absolute "${RUNS:-$root/runs}")"
if [[ "${META:-}" == */* ]] || [ -e "${META:-}" ]; then
    META="$(absolute "$META")"
fi

# Prints what to do where the data set of a script is not there.
advice() {
    case "$1" in
    cifar10) printf '%s' "run python train_val/cifar10_download_and_extract.py --data_dir=$DATA" ;;
    mnist) printf '%s' "set DATA to the folder with MNIST's four idx files, or with mnist/" ;;
    imagenet) printf '%s' "set DATA to the folder with ImageNet's TFRecords or train/<wnid>/*.JPEG," \
        " or with imagenet/" ;;
    esac
}

need_data() {
    [ -d "$DATA" ] || die "Expected the data set $DATA_SET in $DATA, found no such folder:" \
        "$(advice "$DATA_SET")."
    # The commands find the other data sets in the folder of all by themselves.
    if [ "$DATA_SET" = imagenet ] && [ -d "$DATA/imagenet" ]; then
        DATA="$DATA/imagenet"
    fi
}

# Only the experiments on hypergradients have some that need no data.
[ "${DATA_MAY_BE_MISSING:-}" ] || need_data

given=("$@")
NAMES=("${NAMES[@]}")
for word in "${given[@]}"; do
    case "$word" in
    --only-*)
        # Not through a pipe: grep ends at the first match, and who still writes would be killed.
        grep -qxF -e "${word#--only-}" <<<"$(printf '%s\n' "${NAMES[@]}")" ||
            die "Expected --only- and one of ${NAMES[*]}, got $word."
        ;;
    esac
done

flags_of() {
    local word whose=""
    flags=()
    for word in "${given[@]}"; do
        case "$word" in
        --only-*) whose="${word#--only-}" ;;
        *) if [ -z "$whose" ] || [ "$whose" = "$1" ]; then flags+=("$word"); fi ;;
        esac
    done
}

# rate_of_meta LR: the paper's learning rate for an optimizer that was meta-trained as in the paper;
# nothing for one that ships, which has the rate that it was meta-trained with.
rate_of_meta() {
    if [[ "$META" == */* ]]; then
        printf '%s' "--lr=$1"
    fi
}

install_package

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
        wait_for "${jobs_of[$device]}" || failed=1
    fi
    (
        export CUDA_VISIBLE_DEVICES="$device"
        children=()
        attend
        "$@"
    ) &
    jobs_of[$device]=$!
    children+=("$!")
}

# What this shell started, and the status that a signal asked it to end with.
children=()
ended=""

# Hands signals on as SIGTERM: what runs in the background is deaf to Ctrl-C.
attend() {
    trap 'ended=130; hand_on' INT
    trap 'ended=143; hand_on' TERM
}

hand_on() {
    if [ "${#children[@]}" -gt 0 ]; then kill -TERM "${children[@]}" 2>/dev/null || true; fi
}

attend

# wait_for PID: its status; a signal ends a wait, not what is waited for. If one came, everything
# that this shell started is waited for, and the script ends as the signal asked.
wait_for() {
    local child status=0
    wait "$1" || status=$?
    while kill -0 "$1" 2>/dev/null; do
        status=0
        wait "$1" || status=$?
    done
    if [ -n "$ended" ]; then
        for child in "${children[@]}"; do
            while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
        done
        exit "$ended"
    fi
    # Its number may be another's one day.
    local left=()
    for child in "${children[@]}"; do
        [ "$child" = "$1" ] || left+=("$child")
    done
    children=("${left[@]}")
    return "$status"
}

# Runs a command in such a way that signals reach it.
run_attended() {
    "$@" &
    children+=("$!")
    wait_for "$!"
}

# By device, the last job that was started on it: the only one there that may still run.
declare -A jobs_of=()
failed=0

wait_for_all() {
    local job
    for job in "${jobs_of[@]}"; do
        wait_for "$job" || failed=1
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
    run_attended "$VENV_PYTHON" -u "$@" "${FOLDER_FLAG:---model_dir}=$folder"
    printf '%s\n' "$(described "$@")" >"$finished"
}
