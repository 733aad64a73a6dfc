#!/usr/bin/env bash
# Format, lint, types and tests: all are run, and the exit status says whether all passed.
# Arguments go to pytest, e.g. launch/test.sh -k masks
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh test

failed=()
check() {
  local name=$1
  shift
  echo
  echo "== $name: $*"
  "$@" || failed+=("$name")
}

check format ruff format --check .
check lint ruff check .
# The environment may lie elsewhere than where pyproject.toml says (M2DIT_VENV).
check types pyright --pythonpath "$(command -v python)"
check tests python -m pytest -n 2 --dist loadfile "$@"

echo
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "All checks passed."
