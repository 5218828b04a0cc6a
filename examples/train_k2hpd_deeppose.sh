#!/usr/bin/env bash
# The whole two-stage DeepPose on K2HPD (data/K2HPD), as the original's script ran it: mirror and shuffle, labels, LMDBs and mean, train
# stage 1, score it, predict the training pictures, cut patches, LMDBs and mean, train stage 2, score both. Each step is also a command:
#   python deeppose_caffe_port/workflow.py STEP
# Options go on to it; --start_at=STEP goes on in the middle, --resume continues an interrupted training:
#   bash examples/train_k2hpd_deeppose.sh --dataset=lspet --data_root=DIR --preset=cpu
#   bash examples/train_k2hpd_deeppose.sh --limit=300 --preset=smoke --out=/tmp/dry                 # a dry run
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python deeppose_caffe_port)
exec "$python" "$root/deeppose_caffe_port/workflow.py" run_all "$@"
