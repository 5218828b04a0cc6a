#!/usr/bin/env bash
# All tests: sets up the environment, runs one pytest process a framework (two frameworks in one process can crash), then ruff.
#   bash tests/run.sh [PATH under tests/...] [pytest options]      e.g.  bash tests/run.sh tests/common -k pck
# The last line of the output is the sum: N passed, N failed, N skipped. Golden tests read $GOLDEN_DIR and $POSE_DATA where set.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python)
cd -- "$root"
results=$(mktemp -d)
trap 'rm -rf -- "$results"' EXIT

groups=(
  'torch tests/common tests/lpm_torch tests/deeppose_caffe_port'
  'tensorflow tests/deeppose_tf tests/deepercut_tf'
  'paddle tests/simplebaseline_paddle'
  'repository tests/test_*.py'
)
selection=() options=()
for argument in "$@"; do
  argument=${argument#./} argument=${argument#"$root/"}
  case "$argument" in
    tests | tests/*) selection+=("${argument%/}") ;;
    *) options+=("$argument") ;;
  esac
done

# The part of PATH that was asked for: PATH itself, or the selected things inside it.
selected_in() {
  local path=$1 asked
  [ ${#selection[@]} -gt 0 ] || { printf '%s\n' "$path"; return; }
  for asked in "${selection[@]}"; do
    case "$asked" in "$path" | "$path"/* | "$path"::*) printf '%s\n' "$asked" ;; esac
    case "$path" in "$asked"/*) printf '%s\n' "$path" ;; esac
  done
}

status=0
for group in "${groups[@]}"; do
  read -r name patterns <<<"$group"
  paths=()
  for path in $patterns; do
    [ ! -e "$path" ] || mapfile -t -O ${#paths[@]} paths < <(selected_in "$path")
  done
  [ ${#paths[@]} -gt 0 ] || continue
  printf '\n== %s: %s\n' "$name" "${paths[*]}"
  code=0
  "$python" -m pytest "${options[@]}" --junit-xml="$results/$name.xml" "${paths[@]}" || code=$?
  # 5: nothing collected here, which the sum below judges
  if [ $code -ne 0 ] && [ $code -ne 5 ]; then
    printf '== %s: pytest ended with code %s\n' "$name" "$code"
    status=1
    [ -e "$results/$name.xml" ] || : >"$results/$name.crashed"
  fi
done

printf '\n== ruff\n'
"$python" -m ruff check . || status=1
"$python" -m ruff format --check . || status=1

printf '\n'
"$python" - "$results" <<'PYTHON' || status=1
import pathlib
import sys
from xml.etree import ElementTree

folder = pathlib.Path(sys.argv[1])
total = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
for report in folder.glob("*.xml"):
    for suite in ElementTree.parse(report).iter("testsuite"):
        for key in total:
            total[key] += int(suite.get(key, 0))
failed = total["failures"] + total["errors"]
passed = total["tests"] - failed - total["skipped"]
failed += len(list(folder.glob("*.crashed")))
print(f"{passed} passed, {failed} failed, {total['skipped']} skipped")
sys.exit(1 if failed or not passed else 0)
PYTHON
exit $status
