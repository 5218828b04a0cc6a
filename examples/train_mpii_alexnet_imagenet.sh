#!/usr/bin/env bash
# The original's example of this name, with its settings (deeppose_tf/config.py); on synthetic data its small form. Further options are
# passed on:
#   bash examples/train_mpii_alexnet_imagenet.sh --max_iter 200
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python deeppose_tf)
exec "$python" "$root/deeppose_tf/train.py" --example mpii_alexnet_imagenet "$@"
