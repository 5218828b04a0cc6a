#!/usr/bin/env bash
# The main job of this repository on a machine without any data: draw synthetic people, train every house's smoke preset, score each on
# held-out people beside two baselines, draw what it predicts, and write out/quickstart/report.md. Run it again at will.
#   bash examples/quickstart.sh [--only HOUSE ...]
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$(bash "$root/examples/setup.sh" --python)
exec "$python" "$root/examples/quickstart.py" "$@"
