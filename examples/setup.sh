#!/usr/bin/env bash
# Sets up the Python environment: everything, or single directories. Safe to call again, from any working directory.
set -euo pipefail

usage='Usage: bash examples/setup.sh [DIRECTORY...] [--gpu] [--python]

Installs the pinned packages of the named directories (common, lpm_torch, deeppose_tf, deeppose_caffe_port, deepercut_tf,
simplebaseline_paddle), or of all of them and the test tools, into .venv at the repository root, which is made when missing.
Needs CPython 3.11; no compiler, no root. Costs nothing when the environment is up to date.

  --gpu      CUDA builds of TensorFlow and Paddle (requirements-gpu.txt); an environment set up so once stays so
  --python   print the path of the environment'\''s interpreter on standard output (everything else goes to standard error)

POSE_VENV=active installs into the environment that is active now (VIRTUAL_ENV or CONDA_PREFIX) and leaves .venv alone.'

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
houses=(common lpm_torch deeppose_tf deeppose_caffe_port deepercut_tf simplebaseline_paddle)
bootstrap=(setuptools==80.9.0 wheel==0.48.0)

say() { printf '[setup] %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

is_cpython_311() {
  [ "$("$1" -c 'import sys; print(sys.implementation.name, *sys.version_info[:2])' 2>/dev/null)" = 'cpython 3 11' ]
}

# Prefers an interpreter that can give a new environment its pip: Debian splits ensurepip off into python3.11-venv.
find_python() {
  local candidate fallback='' seen=''
  while read -r candidate; do
    if is_cpython_311 "$candidate"; then
      if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then printf '%s' "$candidate"; return; fi
      fallback=${fallback:-$candidate}
    else
      seen+=" $candidate ($("$candidate" --version 2>&1 | tail -n 1 || true))"
    fi
  done < <(type -aP python3.11 python3 || true)
  [ -n "$fallback" ] || die "CPython 3.11 is needed and was not found as python3.11 or python3; found:${seen:- neither}. Install it (Debian/Ubuntu: python3.11 and python3.11-venv; or pyenv install 3.11)."
  printf '%s' "$fallback"
}

make_environment() {
  local base
  base=$(find_python) || exit 2
  say "making $prefix with $base"
  if "$base" -c 'import ensurepip, venv' 2>/dev/null; then
    "$base" -m venv "$prefix"
  elif "$base" -m pip --version >/dev/null 2>&1 && "$base" -m venv --without-pip "$prefix"; then
    "$base" -m pip --python "$prefix/bin/python" install pip >&2
  else
    die "$base has neither ensurepip nor pip, so it cannot make an environment. Install python3.11-venv (Debian/Ubuntu) or another CPython 3.11."
  fi
}

# All requirement files count together: checking again after any change of one costs a few seconds only.
fingerprint() {
  (
    cd -- "$root"
    printf '%s\n' "$variant" "${bootstrap[@]}"
    local house
    for house in "${houses[@]}"; do [ ! -e "$house/__init__.py" ] || printf 'package %s\n' "$house"; done
    cat requirements*.txt ./*/requirements*.txt pyproject.toml
  ) | sha256sum | cut -d ' ' -f 1
}

# The other checkout that .venv was made for, where it was linked or copied from there (not where a checkout was moved with its .venv).
other_owner() {
  local real owner
  [ -z "${POSE_VENV:-}" ] && [ -x "$prefix/bin/python" ] || return 1
  real=$(cd -P -- "$prefix" && pwd -P)
  owner=$(cat "$state/owner" 2>/dev/null || true)
  if [ "$real" != "$prefix" ]; then printf '%s' "${owner:-$real}"; return; fi
  [ -n "$owner" ] && [ "$owner" != "$root" ] && [ -e "$owner/examples/setup.sh" ] && printf '%s' "$owner"
}

is_current() {
  local name
  [ -x "$prefix/bin/python" ] || return 1
  [ -n "${POSE_VENV:-}" ] || [ "$(cat "$state/owner" 2>/dev/null)" = "$root" ] || [ -n "$owner" ] || return 1
  [ "$(cat "$state/everything" 2>/dev/null)" != "$wanted" ] || return 0
  [ ${#targets[@]} -gt 0 ] || return 1
  for name in "${targets[@]}"; do
    [ "$(cat "$state/$name" 2>/dev/null)" = "$wanted" ] || return 1
  done
}

requirement_arguments() {
  local name file
  [ ${#targets[@]} -gt 0 ] || { printf '%s\n' -r "requirements${variant}.txt"; return; }
  for name in "${targets[@]}"; do
    file="$name/requirements${variant}.txt"
    [ -e "$root/$file" ] || file="$name/requirements.txt"
    printf '%s\n' -r "$file"
  done
}

pip() {
  "$prefix/bin/python" -m pip --disable-pip-version-check "$@" 2>&1 | tee -a "$log" \
    | { grep --line-buffered -E '^ *(Collecting|Downloading|Building|Installing|Uninstalling|Successfully|ERROR|error)' >&2 || true; } \
    || { say "pip failed; the whole log is $log, its end:"; tail -n 15 "$log" >&2; exit 1; }
}

# A killed pip can leave a package that claims to be installed: pip writes INSTALLER after a package's files.
drop_half_installed() {
  local info
  for info in "$prefix"/lib/python3.11/site-packages/*.dist-info; do
    if [ -d "$info" ] && [ ! -e "$info/INSTALLER" ]; then
      say "$(basename "$info") is incomplete and will be installed again"
      rm -r -- "$info"
    fi
  done
}

install() {
  local -a requirements
  mapfile -t requirements < <(requirement_arguments)
  say "installing ${targets[*]:-everything}${variant:+ with CUDA builds} into $prefix (the first time: minutes and gigabytes; log: $log)"
  : >"$log"
  cd -- "$root"
  if [ -n "$variant" ] && [ ! -e "$state/gpu" ]; then
    pip uninstall -y paddlepaddle
    : >"$state/gpu"
  fi
  pip install "${bootstrap[@]}"
  pip install --no-build-isolation "${requirements[@]}"
  pip install --no-build-isolation --no-deps -e .
}

stamp() {
  local name
  printf '%s\n' "$root" >"$state/owner"
  for name in "${targets[@]:-everything}"; do
    printf '%s\n' "$wanted" >"$state/$name.new"
    mv -f -- "$state/$name.new" "$state/$name"
  done
}

variant='' print_python='' targets=()
for argument in "$@"; do
  case "$argument" in
    -h | --help) printf '%s\n' "$usage"; exit 0 ;;
    --gpu) variant=-gpu ;;
    --python) print_python=1 ;;
    *)
      name=$(basename -- "$argument")
      [[ " ${houses[*]} " == *" $name "* ]] || die "unknown argument '$argument'; directories: ${houses[*]}; see --help"
      targets+=("$name")
      ;;
  esac
done

case "${POSE_VENV:-}" in
  '') prefix=$root/.venv ;;
  active)
    prefix=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    [ -x "${prefix:-/nowhere}/bin/python" ] || die 'POSE_VENV=active, but no environment is active (VIRTUAL_ENV and CONDA_PREFIX name none). Activate one or unset POSE_VENV.'
    ;;
  *) die "POSE_VENV is '$POSE_VENV'; it can be unset (use .venv) or 'active'." ;;
esac
state=$prefix/.pose-setup
log=$state/pip.log
[ ! -e "$state/gpu" ] || variant=-gpu
wanted=$(fingerprint)
owner=$(other_owner) || owner=''

if [ -n "$owner" ] && ! is_current; then
  die "$prefix belongs to $owner and lacks what this checkout needs; installing here would change it there. Remove $prefix (a link: only the link) and call again, or call setup.sh there."
fi
if ! is_current; then
  exec 9<"$root/requirements.txt"
  flock -n 9 || { say 'another set-up of this checkout is running; waiting for it'; flock 9; }
  if ! is_current; then
    started=$SECONDS
    [ ! -x "$prefix/bin/python" ] || is_cpython_311 "$prefix/bin/python" \
      || die "$prefix is not a CPython 3.11 environment ($("$prefix/bin/python" --version 2>&1)). Remove it or use another one."
    if ! "$prefix/bin/python" -m pip --version >/dev/null 2>&1; then
      [ -z "${POSE_VENV:-}" ] || die "the active environment $prefix has no pip; add it (python -m ensurepip) or unset POSE_VENV."
      make_environment
    fi
    mkdir -p -- "$state"
    [ -n "${POSE_VENV:-}" ] || drop_half_installed
    install
    stamp
    say "ready after $((SECONDS - started)) s: $prefix"
  fi
fi
if [ -n "$print_python" ]; then printf '%s\n' "$prefix/bin/python"; else say "everything is there; next: source $prefix/bin/activate"; fi
