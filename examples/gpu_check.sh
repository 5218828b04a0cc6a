#!/usr/bin/env bash
# What a GPU says of the torch houses, in at most 10 minutes: golden tests on it with and without TF32, a training that goes on, scoring, speed, memory and share of the bf16
# matrix rate of cpm, lpm and both Caffe stages, eager and compiled, and how fast pictures are loaded beside that. One JSON of it all.
#   bash examples/gpu_check.sh [FILE.json]      default: $OUT/gpu_check.json, or output/gpu_check.json
#   DEVICE=cpu bash examples/gpu_check.sh       rehearses it with small networks
# PYTHON names the interpreter (.venv, else python3: any with torch, numpy, scipy, OpenCV, PyYAML, tqdm, protobuf, h5py, pytest), PARTS a pattern for the parts to run,
# MINUTES the time. Ends with 1 when a part failed; one that ran out of time is left out and said. Nothing is installed or downloaded.
set -uo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
file=$(realpath -m -- "${1:-${OUT:-output}/gpu_check.json}")
cd -- "$root"
device=${DEVICE:-cuda} python=${PYTHON:-.venv/bin/python} end=$((SECONDS + 60 * ${MINUTES:-9} + 30))
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
parts=$(mktemp -d) slow=1
trap 'rm -rf -- "$parts"' EXIT
export PYTHONPATH=$root POSE_TEST_DEVICE=$device

"$python" - "$device" <<'PYTHON' || exit 2
import importlib.util
import sys

import torch

if sys.argv[1] != "cpu" and not torch.cuda.is_available():
    sys.exit("error: PyTorch sees no GPU here; DEVICE=cpu rehearses")
print(torch.cuda.get_device_name() if sys.argv[1] != "cpu" else "the CPU", f"torch {torch.__version__}")
without = {"lmdb": "training of the Caffe port's stages, its solver's golden tests, Penn Action in an LMDB",
           "pycocotools": "nothing of these parts (the comparison with pycocotools' own figures)",
           "easydict": "nothing of these parts (deepercut_tf)", "munkres": "nothing of these parts (predict.py --track)"}
for package, tests in without.items():
    if importlib.util.find_spec(package) is None:
        print(f"{package} is not installed: left out is {tests}")
PYTHON

part() { # NAME SECONDS WORD...: Python with these words for at most so long
  local name=$1 most=$2 began=$SECONDS code=0 left=$((end - SECONDS))
  [[ $name =~ ${PARTS:-.} ]] || return 0
  shift 2
  most=$((most * slow))
  printf '\n== %s\n' "$name"
  if [ $left -lt 10 ]; then code=124; else timeout -k 5 $((most < left ? most : left)) "$python" "$@" >"$parts/$name.log" 2>&1 || code=$?; fi
  [ ! -e "$parts/$name.log" ] || tail -n 20 "$parts/$name.log" | cut -c 1-2000
  [ $code -ne 124 ] || echo "$name: out of time"
  printf '%s %s %s\n' "$name" "$code" $((SECONDS - began)) >>"$parts/ended"
}

golden=(-m pytest -m gpu -p no:cacheprovider -q -rs tests/lpm_torch/test_model_golden.py tests/deeppose_caffe_port/test_golden_net.py)
clip=(--runs=10 --amp=bf16) net=(--runs=10 --amp=bf16 --batch_size=256) draw=1000 compile=--compile workers=$(($(nproc) > 8 ? 8 : $(nproc)))
if [ "$device" = cpu ]; then
  golden+=(-k 'v1 or euclidean or (test_hourglass and conv)')
  clip=(--runs=1 --channels=0.05 --resolution=32 --t=2 --batch_size=1 --matrix=64) net=(--runs=1 --batch_size=1 --matrix=64) draw=8 compile='' workers=1 slow=10
fi

POSE_SHARES=$parts/shares.json part tests 150 "${golden[@]}" --junit-xml="$parts/tests.xml"
POSE_SHARES=$parts/shares_tf32.json POSE_TEST_TF32=1 part tests_tf32 90 "${golden[@]}" --junit-xml="$parts/tests_tf32.xml"
part draw 60 -m common.datasets.synthetic lsp "$parts/lsp" --count "$draw"
run=(lpm_torch/train.py --model=lpm --dataset=lsp "--data_root=$parts/lsp" --preset=smoke --valid_split=none "--device=$device" "--out=$parts/run" --limit=32)
part train 60 "${run[@]}" --epochs=1
part resume 60 "${run[@]}" --epochs=2 --resume
part val 60 lpm_torch/val.py --dataset=lsp "--data_root=$parts/lsp" "--weights=$parts/run" "--device=$device" --limit=64 "--result=$parts/val.json"
part val_caffe 60 deeppose_caffe_port/val.py --dataset=lsp "--data_root=$parts/lsp" --split=test --weights=lspet "--device=$device" --limit=64 "--result=$parts/val_caffe.json"
for model in cpm lpm; do part "$model" 60 tests/bench/lpm_torch.py device --no-compile "--model=$model" "--device=$device" "${clip[@]}" "--json=$parts/$model.json"; done
for stage in 1 2; do part "stage$stage" 60 tests/bench/deeppose_caffe_port.py device "--stage=$stage" "--device=$device" "${net[@]}" "--json=$parts/stage$stage.json"; done
part loader 60 tests/bench/lpm_torch.py loader --dataset=lsp "--data_dir=$parts/lsp" --runs=2 --batch_size=16 "--workers=$workers" "--json=$parts/loader.json"
if [ -n "$compile" ]; then
  for stage in 1 2; do part "stage${stage}_compiled" 100 tests/bench/deeppose_caffe_port.py device $compile "--stage=$stage" "--device=$device" "${net[@]}" "--json=$parts/stage${stage}_compiled.json"; done
  for model in lpm cpm; do part "${model}_compiled" 200 tests/bench/lpm_torch.py device $compile "--model=$model" "--device=$device" "${clip[@]}" "--json=$parts/${model}_compiled.json"; done
fi

"$python" - "$parts" "$file" "$device" <<'PYTHON'
import json
import pathlib
import platform
import sys
from xml.etree import ElementTree

import numpy
import torch

parts, file, device = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
ended = [line.split() for line in (parts / "ended").read_text().splitlines()]
found = {"device": torch.cuda.get_device_name() if device != "cpu" else "CPU", "processor": platform.machine(),
         "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
         "numpy": numpy.__version__, "parts": {n: {"code": int(c), "seconds": int(s)} for n, c, s in ended}}
for name in ("tests", "tests_tf32"):
    if (parts / f"{name}.xml").exists():
        cases = list(ElementTree.parse(parts / f"{name}.xml").iter("testcase"))
        count = {kind: sum(c.find(kind) is not None for c in cases) for kind in ("failure", "error", "skipped")}
        shares = json.loads((parts / f"{name.replace('tests', 'shares')}.json").read_text())
        found[name] = {"tests": len(cases), **count, "largest share of a tolerance": max(shares.values(), default=0)}
found["tables"] = {n: json.loads((parts / f"{n}.json").read_text()) for n, *_ in ended if (parts / f"{n}.json").exists()}
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(json.dumps(found, indent=1) + "\n")
failed = [name for name, code, _ in ended if code not in ("0", "124")]
print(f"\n{file}: {len(ended)} parts, failed: {', '.join(failed) or 'none'}")
sys.exit(bool(failed))
PYTHON
