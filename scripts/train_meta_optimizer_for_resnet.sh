#!/usr/bin/env bash
# Meta-trains on a ResNet-20 and CIFAR-10, then trains a fresh one with the result: for each of the
# paper's four conditions (with and without a learned preconditioner, 2 and 4 iterations).
#
#   DATA=./data scripts/train_meta_optimizer_for_resnet.sh [FLAGS...] [--only-meta FLAGS...] \
#       [--only-eval FLAGS...]
set -euo pipefail
DATA_SET=cifar10 NAMES=(meta eval)
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

condition() {
    local name="resnet_x-$1_y-$2_cg-$3"
    local common=(--data_dir="$DATA" --problem=resnet --resnet_size=20 --batch_size=128
        --weight_decay=2e-4)
    common+=(--x_use="$1" --y_use="$2" --CG_iter="$3")
    flags_of meta
    run_once "$RUNS/meta_$name" train_val/train_meta_optimizer.py "${common[@]}" \
        --meta_roll_back=10 --keep_prob=0.5 --meta_lr=1e-2 --epochs_per_eval=250 "${flags[@]}"
    flags_of eval
    run_once "$RUNS/eval_$name" train_val/use_meta_optimizer.py "${common[@]}" \
        --optimizer=meta --lr=2 --meta_ckpt="$RUNS/meta_$name" "${flags[@]}"
}

each_condition condition
