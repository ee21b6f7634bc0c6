#!/usr/bin/env bash
# Trains a ResNet-18 on ImageNet at batch 64 with an optimizer that was meta-trained on the ResNet-20
# and with the first-order ones at the original's learning rates, the same batches for all.
#
# With a name that ships as META, such as resnet, the settings are those of docs/results.md.
#
#   DATA=./data META=runs/meta_resnet_x-x_y-rnn_cg-4 \
#       scripts/validation_meta_optimizer_on_imagenet.sh [FLAGS...] [--only-adam FLAGS...] ...
set -euo pipefail
DATA_SET=imagenet NAMES=(meta momentum adam RMSprop)
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

META="${META:-$RUNS/meta_resnet_x-x_y-rnn_cg-4}"

# The paper's rate is for what the paper's meta-training gave. What ships has seen smaller networks
# only: these are the best that docs/results.md found on a ResNet-18.
settings_of_meta() {
    if [ "$META" = resnet ]; then
        printf '%s' "--lr=0.1 --damping_scale=3"
    else
        rate_of_meta 0.5
    fi
}

compare() {
    flags_of "$1"
    run_once "$RUNS/imagenet_$1" train_val/use_meta_resnet_on_imagenet.py --data_dir="$DATA" \
        --problem=resnet --resnet_size=18 --batch_size=64 --weight_decay=1e-4 --optimizer="$1" \
        "${@:2}" "${flags[@]}"
}

# shellcheck disable=SC2046  # a few flags or none
in_turn 0 compare meta $(settings_of_meta) --meta_ckpt="$META"
in_turn 1 compare momentum --lr=0.025 --momentum=0.9
in_turn 2 compare adam --lr=2.5e-4
in_turn 3 compare RMSprop --lr=2.5e-4
wait_for_all
