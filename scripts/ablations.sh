#!/usr/bin/env bash
# What each part of MLHF is worth: variants that are meta-trained alike on a small convnet and
# CIFAR-10, then side by side on a larger one. Reckoned at an hour on one core. A killed script
# continues when it is given again. The comparison goes to $RESULTS ($RUNS/ablations).
#
#   DATA=./data scripts/ablations.sh
set -euo pipefail
DATA_SET=cifar10 NAMES=()
source "$(dirname "${BASH_SOURCE[0]}")/experiments.sh"

RESULTS="${RESULTS:-$RUNS/ablations}"
# The folders become part of a list of optimizers and their settings.
[[ "$RUNS" != *[:,]* ]] || die "Expected RUNS without colons and commas, got RUNS=$RUNS."
small="convnet:width=16:depth=2:dense=128:shrink=2:batch_size=256"
larger="convnet:width=24:depth=2:dense=256:shrink=2"
entrants=""

# variant NAME TITLE SETTINGS_IN_USE FLAGS...: meta-trains one and enters it. What it is used with
# beside the tuned rate, such as :cg=20, may be empty.
variant() {
    local folder="$RUNS/ablation_$1" title="$2" settings="$3"
    shift 3
    run_once "$folder" train_val/train_meta_optimizer.py --data_dir="$DATA" --tasks="$small" \
        --estimator=pes --meta_roll_back=10 --horizon=100 --pairs=2 --deviation=0.07 \
        --layers=output --meta_lr=0.015 --lr=0.35 --initial_damping=0.4 --max_steps=100 \
        --save_steps=20 --curvature_share=0.25 --input_scale=rms --CG_iter=4 "$@"
    enter "$folder" "$title" "$settings"
}

enter() {
    entrants+="meta:path=$1:lr=0.25/0.5/1$3:title=$2,"
}

variant cg4 "MLHF at CG 4" ""
variant cg2 "MLHF at CG 2" "" --CG_iter=2
enter "$RUNS/ablation_cg4" "trained at CG 4 and used at CG 20" ":cg=20"
variant no_damping "without the damping's LSTM" ":damping=0.1/0.3/1" --d_use=none --damping=0.3
variant no_preconditioner "without the preconditioner's LSTM" "" --y_use=none
variant from_gradient "from the gradient" "" --x_use=d
variant learned_start "from a learned start" "" --x_use=rnn
variant gradient_seen "LSTMs see the gradient alone" "" --inputs=g
variant residual_seen "LSTMs see the residual alone" "" --inputs=r
variant solution_seen "LSTMs see the solution alone" "" --inputs=x
variant not_scaled "inputs as they are" "" --input_scale=none

run_attended "$VENV_PYTHON" -u train_val/compare_optimizers.py --task="$larger" --data=cifar10 \
    --data_dir="$DATA" --batch_size=256 --steps=100 --seeds=3 --every=25 --report=25,50,100 \
    --loss_images=2000 --test_images=2000 --tuning_settings=16 --cost_rounds=20 --tuning_steps=50 --least_settings=1 \
    --model_dir="$RESULTS" --title="Ablations: a convnet on CIFAR-10, batches of 256" \
    --optimizers="${entrants}hf:cg=4:share=0.25:lr=0.3/1:damping=0.1/0.3/1:title=without LSTMs (HF),adam"
