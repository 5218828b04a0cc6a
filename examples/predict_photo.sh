#!/usr/bin/env bash
# Pictures through all five networks, with the weights that lie beside them (HOUSE/zoo/lspet.*), and everything on one sheet.
#   bash examples/predict_photo.sh PICTURE ... [options of every predict.py, such as --detector FILE.onnx or --boxes x,y,w,h]
# Writes output/photo/sheet.png, and output/photo/HOUSE/ with joints.jsonl and drawings. Weights made from research-only photographs: see the cards.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
pictures=()
while [ $# -gt 0 ] && [[ $1 != --* ]]; do pictures+=("$1"); shift; done
[ ${#pictures[@]} -gt 0 ] || { sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
python=$(bash "$root/examples/setup.sh" --python)

lines=()
for house in deeppose_tf deeppose_caffe_port lpm_torch deepercut_tf simplebaseline_paddle; do
  printf '== %s\n' "$house" >&2
  rm -f "output/photo/$house/joints.jsonl"
  "$python" "$root/$house/predict.py" "${pictures[@]}" --weights lspet --out "output/photo/$house/" "$@" || printf '%s: see above\n' "$house" >&2
  [ ! -s "output/photo/$house/joints.jsonl" ] || lines+=(--lines "$house=output/photo/$house/joints.jsonl")
done
[ ${#lines[@]} -gt 0 ] || exit 2
PYTHONPATH=$root "$python" -m common.draw output/photo/sheet.png "${pictures[@]}" "${lines[@]}"
