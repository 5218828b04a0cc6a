#!/usr/bin/env bash
# The numeric and golden tests as if on other processors, one factor at a time, and a table of the results at the end.
#   bash tests/cpus.sh [--quick] [PATH under tests/ ...]      default: the test files that compare numbers; --quick: two columns only
# Each run is a process of its own. The libraries choose their kernels by these variables; a choice that the processor lacks has no effect.
# The table: largest error as a share of its tolerance (tests/tolerance.py), and what failed.
set -uo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python) || exit 2
cd -- "$root"
results=$(mktemp -d)
trap 'rm -rf -- "$results"' EXIT

quick='' asked=()
for argument in "$@"; do
  case "$argument" in --quick) quick=1 ;; *) asked+=("$argument") ;; esac
done

torch='ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ATEN_CPU_CAPABILITY=avx512'
onednn='ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX512_CORE'
tensorflow='TF_ENABLE_ONEDNN_OPTS=0 TF_ENABLE_ONEDNN_OPTS=1'
paddle='FLAGS_use_mkldnn=0 FLAGS_use_mkldnn=1'
blas='OPENBLAS_CORETYPE=Prescott OPENBLAS_CORETYPE=Haswell OPENBLAS_CORETYPE=SkylakeX'
threads='OMP_NUM_THREADS=1 OMP_NUM_THREADS=2'

# framework: factors, then the files that compare numbers
declare -A factors=(
  [common]="$blas"
  [lpm_torch]="$torch $onednn $blas $threads"
  [deeppose_caffe_port]="$torch $onednn $blas $threads"
  [deeppose_tf]="$tensorflow $onednn $blas $threads"
  [deepercut_tf]="$tensorflow $onednn $blas $threads"
  [simplebaseline_paddle]="$paddle $onednn $blas $threads"
)
declare -A quickly=(
  [common]='OPENBLAS_CORETYPE=Haswell'
  [lpm_torch]='ATEN_CPU_CAPABILITY=avx2'
  [deeppose_caffe_port]='ATEN_CPU_CAPABILITY=default'
  [deeppose_tf]='TF_ENABLE_ONEDNN_OPTS=0'
  [deepercut_tf]='TF_ENABLE_ONEDNN_OPTS=0'
  [simplebaseline_paddle]='ONEDNN_MAX_CPU_ISA=AVX2'
)

# The files of a house that compare numbers: those that say `allclose`, `close(` or `approx`, and of them those that were asked for.
files_of() {
  local file path
  grep -lE 'allclose|close\(|approx' "tests/$1"/test_*.py | while read -r file; do
    [ ${#asked[@]} -gt 0 ] || { printf '%s\n' "$file"; continue; }
    for path in "${asked[@]}"; do
      case "$file" in "${path%/}" | "${path%/}"/*) printf '%s\n' "$file" ;; esac
    done
  done
}

status=0
for house in common lpm_torch deeppose_caffe_port deeppose_tf deepercut_tf simplebaseline_paddle; do
  mapfile -t files < <(files_of "$house")
  [ ${#files[@]} -gt 0 ] || continue
  read -ra settings <<<"as-it-is ${factors[$house]}"
  [ -z "$quick" ] || read -ra settings <<<"${quickly[$house]}"
  for setting in "${settings[@]}"; do
    variables=("POSE_SHARES=$results/$house $setting.json" POSE_SKIP_LONG=1)
    case "$setting" in
      as-it-is) ;;
      # all the thread counts that the tests set
      OMP_NUM_THREADS=*)
        for name in OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS; do
          variables+=("$name=${setting#*=}")
        done ;;
      *) variables+=("$setting") ;;
    esac
    printf '== %s, %s\n' "$house" "$setting"
    env "${variables[@]}" "$python" -m pytest -q -p no:cacheprovider "${files[@]}" >"$results/out" 2>&1
    code=$?
    if [ $code -ne 0 ]; then status=1; tail -n 60 "$results/out"; fi
    grep -E '^FAILED|^ERROR' "$results/out" >"$results/$house $setting.failed"
    [ -s "$results/$house $setting.failed" ] || [ $code -eq 0 ] || printf 'pytest ended with code %s\n' "$code" >"$results/$house $setting.failed"
    tail -n 1 "$results/out"
  done
done

"$python" - "$results" <<'PYTHON' || status=1
import json
import pathlib
import sys

folder, over = pathlib.Path(sys.argv[1]), 0
print("\n| house | as if | failed | largest error / tolerance | test |\n|---|---|---|---|---|")
for failed in sorted(folder.glob("*.failed"), key=lambda f: f.stat().st_mtime):
    house, _, setting = failed.stem.partition(" ")
    place = failed.with_suffix(".json")
    shares = json.loads(place.read_text()) if place.is_file() else {}
    share, test = max(shares.values(), default=[0, "-"], key=lambda found: found[0])
    over += share > 0.5
    print(f"| {house} | {setting} | {len(failed.read_text().splitlines())} | {share:.0%} | {test} |")
print(f"\n{over} rows use more than half of a tolerance")
PYTHON
exit $status
