#!/usr/bin/env bash
# Does memory help where joints are hidden? Trains LPM and CPM on the same synthetic video with the same number of updates and compares
# them on occluded and visible joints of held-out videos (the LSTM Pose Machines paper claims that LPM wins).
#   bash examples/occlusion_lpm_vs_cpm.sh [--out=lpm_torch/results/occlusion] [--videos=48] [--epochs=40] [--seeds 0 1 2]
#   bash examples/occlusion_lpm_vs_cpm.sh --videos=4 --epochs=1 --limit=80      # a dry run
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python lpm_torch)
exec "$python" "$root/examples/occlusion_lpm_vs_cpm.py" "$@"
