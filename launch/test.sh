#!/usr/bin/env bash
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: launch/test.sh [PYTEST ARGUMENTS...]

Format, lint, types, layers, docs, tests and, with every other Python that is found, a smoke test:
all are run, and the exit status says whether all passed. Makes an environment in .venv on first
use. Arguments go to pytest, and then there is no smoke test:

  launch/test.sh -k masks
  launch/test.sh -m "not slow and not e2e"     # 4 minutes on 2 cores, not 15
USAGE
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage
  exit
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh test,docs

failed=()
check() {
  local name=$1
  shift
  echo
  echo "== $name: $*"
  "$@" || failed+=("$name")
}

# The Pythons of version $1, such as 3.13: on PATH, and pyenv's that are not active.
pythons() {
  local candidate
  while read -r candidate; do
    # Run it: see env.sh.
    if "$candidate" -c "import sys, venv, ensurepip
sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1; then
      echo "$candidate"
    fi
  done < <(
    type -ap "python$1"
    printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python | sort -rV
  )
}

# In an environment of its own, made once and kept, for the Python $2 of version $1.
smoke() (
  export M2DIT_VENV=.venv-$1 M2DIT_PYTHON=$2
  # A minute less to install: little of it is ever imported.
  export PIP_NO_COMPILE=1
  # An environment that is already there gets the newest versions allowed, as a new one does.
  export PIP_UPGRADE=1 PIP_UPGRADE_STRATEGY=eager
  source launch/env.sh "" || {
    ! grep -qiE 'connection|network|name resolution|timed out' "$M2DIT_VENV/pip.log" || exit 3
    exit 1
  }
  python launch/smoke.py >"$M2DIT_VENV/smoke.log" 2>&1 || {
    cat "$M2DIT_VENV/smoke.log"
    exit 1
  }
  grep -E '^(Python|smoke)' "$M2DIT_VENV/smoke.log"
)

smoke_all() {
  local version python status ours passed=() absent=() problems=()
  ours=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  for version in 3.11 3.12 3.13 3.14; do
    [[ $version != "$ours" ]] || continue
    python=$(pythons "$version" | head -n 1)
    if [[ -z $python ]]; then
      absent+=("$version (not found)")
      continue
    fi
    status=0
    smoke "$version" "$python" || status=$?
    if ((status == 0)); then
      passed+=("$version")
    elif ((status == 3)) && [[ ${CI:-} != true ]]; then
      absent+=("$version (no network to install with)")
    else
      problems+=("$version")
    fi
  done
  ! ((${#passed[@]})) || echo "smoke test with Python, passed: ${passed[*]}"
  ! ((${#absent[@]})) || echo "smoke test with Python, not run: ${absent[*]}"
  ! ((${#problems[@]})) || echo "smoke test with Python, FAILED: ${problems[*]}"
  ((${#problems[@]} == 0))
}

check format ruff format --check .
check lint ruff check .
# The environment may lie elsewhere than where pyproject.toml says (M2DIT_VENV).
check types pyright --pythonpath "$(command -v python)"
check layers lint-imports
# Not with --quiet, which makes --strict pass whatever is wrong (mkdocs 1.6.1). Without a network; the
# variable leaves out an advertisement.
check docs env NO_MKDOCS_2_WARNING=1 mkdocs build --strict
check tests python -m pytest -n 2 --dist loadfile "$@"
if (($# == 0)); then check smoke smoke_all; fi

echo
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "All checks passed."
