#!/usr/bin/env bash
# Trains the convnet on CIFAR-10 at batch 512 with a meta-trained optimizer, with Hessian-free of fixed
# and of adapted damping, and with K-FAC, at the original's settings, the same batches for all.
#
# With a name that ships as META, such as convnet, it has the rate that it was meta-trained with.
#
#   DATA=./data META=runs/meta_convnet_x-x_y-rnn_cg-4 \
#       scripts/validation_2nd_order_optimizer_on_cifar10.sh [FLAGS...] [--only-kfac FLAGS...] ...
set -euo pipefail
DATA_SET=cifar10 NAMES=(meta hf-fix hf-lm kfac)
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

META="${META:-$RUNS/meta_convnet_x-x_y-rnn_cg-4}"

compare() {
    flags_of "$1"
    run_once "$RUNS/cifar10_512_$1" train_val/use_meta_optimizer.py --data_dir="$DATA" \
        --problem=convnet --batch_size=512 --train_epochs=250 --weight_decay=2e-4 "${@:2}" "${flags[@]}"
}

hessian_free=(--optimizer=meta --y_use=none --d_use=none --CG_iter=20)
# shellcheck disable=SC2046  # one flag or none
in_turn 0 compare meta --optimizer=meta $(rate_of_meta 8) --meta_ckpt="$META"
in_turn 1 compare hf-fix "${hessian_free[@]}" --lr=1e-2 --damping=5e-3
in_turn 2 compare hf-lm "${hessian_free[@]}" --lr=1e-3 --damping=1 --decay=0.99 \
    --damping_type=LM_heuristics
in_turn 3 compare kfac --optimizer=kfac --lr=0.1 --damping=1 --decay=0.99
wait_for_all
