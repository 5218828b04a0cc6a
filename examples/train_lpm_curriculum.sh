#!/usr/bin/env bash
# MobilePose's three steps for the LSTM Pose Machine: LSP, then MPII, then Penn Action, each starting from the best weights of the step
# before (the last ones where nothing is validated). Data: data/LSP, data/MPII, data/PennAction, or --data_dir=DIR with these folders.
# All options go on to every step; an interrupted run continues where it was.
#   bash examples/train_lpm_curriculum.sh --gpus=0,1,2,3
#   bash examples/train_lpm_curriculum.sh --limit=40 --epochs=1 --model_dir=/tmp/dry      # a dry run
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python lpm_torch)

model=lpm model_dir=output/lpm_torch/curriculum
for option in "$@"; do
  case "$option" in
    --model=*) model=${option#*=} ;;
    --model_dir=*) model_dir=${option#*=} ;;
    --model | --model_dir) echo "write $option=VALUE, with an equals sign" >&2; exit 2 ;;
  esac
done

weights=()
while read -r settings dataset epochs; do
  printf '\n== %s, %s epochs, from %s\n' "$dataset" "$epochs" "${weights[*]:-random weights}"
  "$python" "$root/lpm_torch/train.py" --config="$root/lpm_torch/configs/$settings.ini" --epochs="$epochs" --resume \
    --model_dir="$model_dir" "${weights[@]}" "$@" </dev/null
  folder=$model_dir/$model/$dataset
  weights=(--weights="$folder")  # its best state, else its last
done <<'STEPS'
lpm_pretrain_lsp LSP 100
lpm_pretrain_mpii MPII 40
lpm_train_penn PennAction 40
STEPS
