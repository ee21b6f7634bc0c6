#!/usr/bin/env bash
# Trains a ResNet-18 on ImageNet at batch 64 with an optimizer that was meta-trained on the ResNet-20
# and with the first-order ones at the original's learning rates, the same batches for all.
#
#   DATA=./imagenet META=runs/meta_resnet_x-x_y-rnn_cg-4 \
#       scripts/validation_meta_optimizer_on_imagenet.sh [flags for all commands]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

META="${META:-$RUNS/meta_resnet_x-x_y-rnn_cg-4}"
flags=("$@")

compare() {
    run_once "$RUNS/imagenet_$1" train_val/use_meta_resnet_on_imagenet.py --data_dir="$DATA" \
        --problem=resnet --resnet_size=18 --batch_size=64 --weight_decay=1e-4 --optimizer="$1" \
        "${@:2}" "${flags[@]}"
}

in_turn 0 compare meta --lr=0.5 --meta_ckpt="$META"
in_turn 1 compare momentum --lr=0.025 --momentum=0.9
in_turn 2 compare adam --lr=2.5e-4
in_turn 3 compare RMSprop --lr=2.5e-4
wait_for_all
