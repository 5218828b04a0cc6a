#!/usr/bin/env bash
# All tests: sets up the environment, runs one pytest process a framework (two frameworks in one process can crash), two of them at a time, then ruff and mypy.
#   bash tests/run.sh [--full] [PATH under tests/...] [pytest options]      e.g.  bash tests/run.sh tests/common -k pck
# --full also runs the long forms (mark `long`: all golden tests on changed fixtures, 20 000 damaged files). Fixtures of the originals lie in tests/golden; $GOLDEN_DIR names
# others of the same layout, $POSE_DATA the real data sets; POSE_TEST_ORDER=SEED shuffles the tests. The last line is the sum: N passed, N failed, N skipped.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python)
cd -- "$root"
results=$(mktemp -d)
trap 'rm -rf -- "$results"' EXIT

# name, seconds that it may take on one of two quiet cores (printed beside what it took, never a failure), paths; the longest first
groups=(
  'torch 360 tests/common tests/lpm_torch tests/deeppose_caffe_port'
  'tensorflow 340 tests/deeppose_tf tests/deepercut_tf'
  'repository 240 tests/test_*.py'
  'paddle 150 tests/simplebaseline_paddle'
  'fuzz 60 tests/fuzz'
)
selection=() options=() full=''
for argument in "$@"; do
  argument=${argument#./} argument=${argument#"$root/"}
  case "$argument" in
    --full) full=1 ;;
    tests | tests/*) selection+=("${argument%/}") ;;
    *) options+=("$argument") ;;
  esac
done
[ -n "$full" ] || export POSE_SKIP_LONG=1

# The part of PATH that was asked for: PATH itself, or the selected things inside it.
selected_in() {
  local path=$1 asked
  [ ${#selection[@]} -gt 0 ] || { printf '%s\n' "$path"; return; }
  for asked in "${selection[@]}"; do
    case "$asked" in "$path" | "$path"/* | "$path"::*) printf '%s\n' "$asked" ;; esac
    case "$path" in "$asked"/*) printf '%s\n' "$path" ;; esac
  done
}

# Two at a time where there are two cores, with a core each. Jobs are process groups of their own (set -m): others would start with Ctrl-C ignored, and the programmes
# that tests start would inherit that.
set -m
lanes=$(( $(nproc) > 1 ? 2 : 1 ))
for name in OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS; do
  [ $lanes = 1 ] || export "$name=${!name:-1}"
done
trap 'trap - INT TERM; for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done; exit 130' INT TERM

status=0 times='' chosen=()
timed() { # NAME BUDGET SECONDS
  times+=$(printf '%-12s %4s s of %s s' "$1" "$3" "$2")$'\n'
}

run_group() { # NAME PATH...: leaves pytest's NAME.xml, or NAME.crashed, and NAME.ended with seconds and exit code
  local name=$1 began=$SECONDS code=0 out=/dev/stdout
  shift
  [ ${#chosen[@]} -eq 1 ] || out=$results/$name.out
  : >"$results/$name.crashed"
  "$python" -m pytest "${options[@]}" --junit-xml="$results/$name.xml" "$@" >"$out" 2>&1 </dev/null || code=$?
  # 5: nothing collected here, which the sum below judges
  if [ -e "$results/$name.xml" ] || [ $code -eq 5 ]; then rm "$results/$name.crashed"; fi
  echo $((SECONDS - began)) $code >"$results/$name.ended"
}

report() { # prints the groups that have ended since the last call
  local group name budget patterns seconds code
  for group in "${groups[@]}"; do
    read -r name budget patterns <<<"$group"
    [ -e "$results/$name.ended" ] || continue
    read -r seconds code <"$results/$name.ended"
    rm "$results/$name.ended"
    printf '\n== %s\n' "$name"
    [ ! -e "$results/$name.out" ] || cat "$results/$name.out"
    timed "$name" "$budget" "$seconds"
    if [ "$code" -ne 0 ] && [ "$code" -ne 5 ]; then
      printf '== %s: pytest ended with code %s\n' "$name" "$code"
      status=1
    fi
  done
}

paths_of() { # PATTERN...: the files and folders of a group that were asked for
  local path
  for path in "$@"; do
    [ ! -e "$path" ] || selected_in "$path"
  done
}

began_all=$SECONDS
for group in "${groups[@]}"; do
  read -r name budget patterns <<<"$group"
  [ -z "$(paths_of $patterns)" ] || chosen+=("$group")
done
for group in "${chosen[@]}"; do
  read -r name budget patterns <<<"$group"
  mapfile -t paths < <(paths_of $patterns)
  while [ "$(jobs -rp | wc -l)" -ge "$lanes" ]; do
    wait -n || true
    report
  done
  printf '\n== %s begins: %s\n' "$name" "${paths[*]}"
  run_group "$name" "${paths[@]}" &
done
while [ -n "$(jobs -rp)" ]; do
  wait -n || true
  report
done
report

printf '\n== ruff and mypy\n'
began=$SECONDS
"$python" -m ruff check . || status=1
"$python" -m ruff format --check . || status=1
typed=()
for package in common lpm_torch deeppose_tf deeppose_caffe_port deepercut_tf simplebaseline_paddle; do
  [ ! -e "$package/py.typed" ] || typed+=("$package")
done
if [ ${#typed[@]} -gt 0 ]; then "$python" -m mypy "${typed[@]}" || status=1; fi
timed 'ruff, mypy' 40 $((SECONDS - began))
timed 'all' 600 $((SECONDS - began_all))

printf '\n== time, beside the budget on two quiet cores\n%s' "$times"
"$python" - "$results" <<'PYTHON' || status=1
import collections
import pathlib
import sys
from xml.etree import ElementTree

folder = pathlib.Path(sys.argv[1])
total = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
slowest, reasons = [], collections.Counter()
for report in folder.glob("*.xml"):
    for suite in ElementTree.parse(report).iter("testsuite"):
        for key in total:
            total[key] += int(suite.get(key, 0))
        for case in suite.iter("testcase"):
            slowest.append((float(case.get("time", 0)), f"{case.get('classname')}::{case.get('name')}"))
            reasons.update(skip.get("message") for skip in case.iter("skipped"))
print("\n== the slowest ten")
for seconds, name in sorted(slowest, reverse=True)[:10]:
    print(f"{seconds:6.1f} s  {name}")
if reasons:
    print("\n== skipped")
for reason, count in reasons.most_common():
    print(f"{count:4d}  {reason}")
failed = total["failures"] + total["errors"]
passed = total["tests"] - failed - total["skipped"]
failed += len(list(folder.glob("*.crashed")))
print(f"\n{passed} passed, {failed} failed, {total['skipped']} skipped")
sys.exit(1 if failed or not passed else 0)
PYTHON
exit $status
