#!/usr/bin/env bash
# Three tasks that nothing was developed on: what needs no tuning beside tuned rivals.
#
#     DATA=../shared/data benchmarks/unseen_tasks.sh FOLDER [task ...]
#
# Every optimizer with settings tries at least 8 of them, for the loss at the last step, with a rate
# that falls linearly. Losses are those of 1,000 training examples. Runs that are in FOLDER are not
# repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?Expected the folder for the runs, such as docs/results/unseen}
shift
[ $# -gt 0 ] || set -- photographs source_code denoising
linear=schedule=linear
optimizers=metamuon,curvaturemuon
optimizers+=,muon:lr=0.01/0.02/0.04:$linear,soap:lr=1e-3/3e-3/1e-2:$linear
optimizers+=,adamw:lr=1e-3/3e-3/1e-2:$linear
optimizers+=,prodigy,schedulefreeadamw,amuse
optimizers+=",muon:lr=0.02:title=Muon at its default,adamw:lr=1e-3:title=AdamW at its default"

hf=,hf:lr=0.3/1:damping=0.1/1:$linear
# K-FAC has no factors for embeddings; Hessian-free takes an hour on the photographs.
kfac=,kfac:lr=0.03/0.1/0.3:damping=0.3/1/3:$linear

compare() {
    local name=$1 batch=$2 steps=$3 others=$4
    "${PYTHON:-python}" train_val/compare_optimizers.py --task_file=benchmarks/unseen_tasks.py \
        --task="$name:batch_size=$batch" --steps="$steps" --optimizers="$optimizers$others" \
        --every=50 --report="50,100,$steps" --loss_images=1000 --test_images=300 \
        --model_dir="$folder/$name" --title="$name, batch $batch"
}

for name in "$@"; do
    case $name in
        photographs) compare photographs 64 150 "$kfac" ;;
        source_code) compare source_code 32 200 "$hf" ;;
        denoising) compare denoising 128 250 "$hf$kfac" ;;
        *)
            echo "Expected photographs, source_code or denoising, got $name." >&2
            exit 2
            ;;
    esac
done
