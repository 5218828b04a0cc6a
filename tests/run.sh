#!/usr/bin/env bash
# All tests: sets up the environment, runs one pytest process a framework (two frameworks in one process can crash), then ruff and mypy.
#   bash tests/run.sh [--full] [PATH under tests/...] [pytest options]      e.g.  bash tests/run.sh tests/common -k pck
# --full also runs the long forms (mark `long`: all golden tests on changed fixtures, 20 000 damaged files). Fixtures of the originals lie in tests/golden; $GOLDEN_DIR names
# others of the same layout, $POSE_DATA the real data sets. The last line is the sum: N passed, N failed, N skipped.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python)
cd -- "$root"
results=$(mktemp -d)
trap 'rm -rf -- "$results"' EXIT

# name, seconds that it may take on two quiet cores (printed beside what it took, never a failure), paths
groups=(
  'torch 240 tests/common tests/lpm_torch tests/deeppose_caffe_port'
  'tensorflow 220 tests/deeppose_tf tests/deepercut_tf'
  'paddle 90 tests/simplebaseline_paddle'
  'repository 50 tests/test_*.py'
  'fuzz 90 tests/fuzz'
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

status=0 times=''
timed() { # NAME BUDGET SECONDS
  times+=$(printf '%-12s %4s s of %s s' "$1" "$3" "$2")$'\n'
}

for group in "${groups[@]}"; do
  read -r name budget patterns <<<"$group"
  paths=()
  for path in $patterns; do
    [ ! -e "$path" ] || mapfile -t -O ${#paths[@]} paths < <(selected_in "$path")
  done
  [ ${#paths[@]} -gt 0 ] || continue
  printf '\n== %s: %s\n' "$name" "${paths[*]}"
  code=0 began=$SECONDS
  "$python" -m pytest "${options[@]}" --junit-xml="$results/$name.xml" "${paths[@]}" || code=$?
  timed "$name" "$budget" $((SECONDS - began))
  # 5: nothing collected here, which the sum below judges
  if [ $code -ne 0 ] && [ $code -ne 5 ]; then
    printf '== %s: pytest ended with code %s\n' "$name" "$code"
    status=1
    [ -e "$results/$name.xml" ] || : >"$results/$name.crashed"
  fi
done

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
