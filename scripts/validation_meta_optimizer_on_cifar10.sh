#!/usr/bin/env bash
# Trains the convnet on CIFAR-10 at batch 128 with a meta-trained optimizer and with the first-order
# ones at the original's learning rates, the same batches for all.
#
# With a name that ships as META, such as convnet, it has the rate that it was meta-trained with.
#
#   DATA=./data META=runs/meta_convnet_x-x_y-rnn_cg-4 \
#       scripts/validation_meta_optimizer_on_cifar10.sh [FLAGS...] [--only-adam FLAGS...] ...
set -euo pipefail
DATA_SET=cifar10 NAMES=(meta momentum adam RMSprop)
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

META="${META:-$RUNS/meta_convnet_x-x_y-rnn_cg-4}"

compare() {
    flags_of "$1"
    run_once "$RUNS/cifar10_$1" train_val/use_meta_optimizer.py --data_dir="$DATA" \
        --problem=convnet --batch_size=128 --train_epochs=250 --weight_decay=2e-4 --optimizer="$1" \
        "${@:2}" "${flags[@]}"
}

# The settings that it was trained with come with a meta-optimizer, its iterations included.
# shellcheck disable=SC2046  # one flag or none
in_turn 0 compare meta $(rate_of_meta 2) --meta_ckpt="$META"
in_turn 1 compare momentum --lr=1e-3 --momentum=0.9
in_turn 2 compare adam --lr=1e-3
in_turn 3 compare RMSprop --lr=1e-3 --decay=0.99
wait_for_all
