#!/usr/bin/env bash
# The tests that compare numbers as if on other processors, one factor at a time, and a table of the results at the end.
#   bash tests/cpus.sh [--resume] [PATH under tests/ ...]        a quick part of it is in tests/test_proof.py
# The first run of a house is of this processor as it is, over all of the house's tests; it shows which tests are golden or compare numbers that differ by rounding, and
# the others run these alone. Each run is a process of its own, two at a time where there are two cores. The libraries choose their kernels by these variables; a choice
# that the processor lacks has no effect. The table: largest error as a share of its tolerance (tests/tolerance.py), and what failed. Results stay in out/cpus; with
# --resume, runs that ended there are not made again.
set -uo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python) || exit 2
cd -- "$root"
results=out/cpus
if [ "${1:-}" = --resume ]; then shift; else rm -rf -- "$results"; fi
mkdir -p -- "$results"

asked=("$@")

torch='ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ATEN_CPU_CAPABILITY=avx512'
onednn='ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX512_CORE'
tensorflow='TF_ENABLE_ONEDNN_OPTS=0 TF_ENABLE_ONEDNN_OPTS=1'
paddle='FLAGS_use_mkldnn=0 FLAGS_use_mkldnn=1'
blas='OPENBLAS_CORETYPE=Prescott OPENBLAS_CORETYPE=Haswell OPENBLAS_CORETYPE=SkylakeX'
threads='OMP_NUM_THREADS=2' # as it is: one

declare -A factors=(
  [common]="$blas"
  [lpm_torch]="$torch $onednn $blas $threads"
  [deeppose_caffe_port]="$torch $onednn $blas $threads"
  [deeppose_tf]="$tensorflow $onednn $blas $threads"
  [deepercut_tf]="$tensorflow $onednn $blas $threads"
  [simplebaseline_paddle]="$paddle $onednn $blas $threads"
)
# The files of a house that were asked for.
files_of() {
  local file path
  for file in tests/"$1"/test_*.py; do
    [ ${#asked[@]} -gt 0 ] || printf '%s\n' "$file"
    for path in "${asked[@]}"; do
      case "$file" in "${path%/}" | "${path%/}"/*) printf '%s\n' "$file" ;; esac
    done
  done
}

run_one() { # HOUSE SETTING TEST...
  local house=$1 setting=$2 code=0 name place="$results/$1 $2" one=1
  shift 2
  [ ! -e "$place.failed" ] || return 0
  local variables=("POSE_SHARES=$place.json" POSE_SKIP_LONG=1)
  case "$setting" in
    as-it-is) ;;
    OMP_NUM_THREADS=*) one=${setting#*=} ;;
    *) variables+=("$setting") ;;
  esac
  # all the thread counts that the tests set
  for name in OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS; do
    variables+=("$name=$one")
  done
  env "${variables[@]}" "$python" -m pytest -q -p no:cacheprovider "$@" >"$place.out" 2>&1 || code=$?
  grep -E '^FAILED|^ERROR' "$place.out" >"$place.part"
  [ -s "$place.part" ] || [ $code -eq 0 ] || printf 'pytest ended with code %s\n' "$code" >"$place.part"
  mv -- "$place.part" "$place.failed"
  [ $code -eq 0 ] || tail -n 60 "$place.out"
  printf '== %s, %s: %s\n' "$house" "$setting" "$(tail -n 1 "$place.out")"
}

run_houses() { # HOUSE...
  local house setting files settings
  for house in "$@"; do
    mapfile -t files < <(files_of "$house")
    [ ${#files[@]} -gt 0 ] || continue
    run_one "$house" as-it-is "${files[@]}"
    "$python" -c 'import json, sys; print(*json.load(open(sys.argv[1])), sep="\n")' "$results/$house as-it-is.json" >"$results/$house.tests"
    read -ra settings <<<"${factors[$house]}"
    for setting in "${settings[@]}"; do
      run_one "$house" "$setting" "@$results/$house.tests"
    done
  done
}

run_houses common lpm_torch deeppose_caffe_port &
[ "$(nproc)" -gt 1 ] || wait
run_houses deepercut_tf deeppose_tf simplebaseline_paddle &
wait

"$python" - "$results" <<'PYTHON'
import json
import pathlib
import sys

cells, houses, said, bad = {}, [], [], 0
for failed in sorted(pathlib.Path(sys.argv[1]).glob("*.failed"), key=lambda file: file.stat().st_mtime):
    house, _, setting = failed.stem.partition(" ")
    place = failed.with_suffix(".json")
    shares = json.loads(place.read_text()) if place.is_file() else {}
    test, share = max(shares.items(), default=("-", 0), key=lambda found: found[1])
    names = [line.partition(" - ")[0] for line in failed.read_text().splitlines()]
    houses += [house] if house not in houses else []
    cells.setdefault(setting, {})[house] = f"{len(names)} FAILED" if names else f"{share:.0%}"
    said += [f"{setting}: {name}" for name in names] + ([f"{setting}: {share:.0%} in {test}"] if share > 0.5 else [])
    bad += len(names)
    if setting == "as-it-is":
        print(f"{house}: {len(shares)} tests compare numbers, {test} is nearest to its tolerance")
order = sorted(cells, key=lambda setting: (setting != "as-it-is", setting))
print("\n| largest error / tolerance, as if |", " | ".join(houses), "|\n|" + "---|" * (len(houses) + 1))
for setting in order:
    print(f"| {setting} |", " | ".join(cells[setting].get(house, "") for house in houses), "|")
print("", "failed, or more than half of a tolerance:", *(said or ["nothing"]), sep="\n")
sys.exit(bad > 0)
PYTHON
