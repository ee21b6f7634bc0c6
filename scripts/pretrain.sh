#!/usr/bin/env bash
# Meta-trains the optimizers that ship with the package, by evolution strategies on small networks
# and CIFAR-10: about 20 minutes of one core. A killed script continues when it is given again.
#
#   DATA=./data scripts/pretrain.sh [convnet] [resnet]
set -euo pipefail
DATA_SET=cifar10 NAMES=()
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

evolve() {
    run_once "$RUNS/$1" train_val/train_meta_optimizer.py --data_dir="$DATA" --estimator=pes \
        --meta_roll_back=10 --deviation=0.07 --layers=output --save_steps=20 "${@:2}"
}

new=(--input_scale=rms --x_use=x --y_use=rnn --d_use=rnn --CG_iter=4 --curvature_share=0.25)
wide="convnet:width=16:depth=2:dense=128:shrink=2:batch_size=256"

convnet() {
    evolve pretrained_convnet_1 "${new[@]}" --lr=0.35 --initial_damping=0.4 --horizon=100 --pairs=2 \
        --tasks="$wide,convnet:width=16:depth=1:dense=192:shrink=2:batch_size=128" \
        --meta_lr=0.015 --max_steps=140
    # Longer trainings from there.
    evolve pretrained_convnet --meta_ckpt="$RUNS/pretrained_convnet_1" --horizon=200 --pairs=4 \
        --tasks="$wide" --meta_lr=0.006 --max_steps=80
}

resnet() {
    evolve pretrained_resnet "${new[@]}" --lr=0.35 --initial_damping=0.1 --horizon=100 --pairs=2 \
        --tasks="residual:width=8:depth=2:shrink=2:batch_size=128,resnet:size=8:width=8:shrink=4:batch_size=128,convnet:width=8:dense=32:shrink=4:batch_size=512" \
        --meta_lr=0.01 --max_steps=160
}

[ "$#" -gt 0 ] || set -- convnet resnet
for name in "$@"; do
    case "$name" in
    convnet | resnet) "$name" ;;
    *) die "Expected the names convnet and resnet, got $name." ;;
    esac
done
