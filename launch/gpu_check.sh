#!/usr/bin/env bash
# What only an NVIDIA GPU can show, most important first, in nine minutes and without a network:
#   bash launch/gpu_check.sh [--minutes=9] [--output=gpu_check] [--wheels=DIR] [--parts=a,b] [--tiny]
# Takes the Python that has jax: PYTHON, or python3 on PATH; makes no environment and installs
# nothing there. What that Python lacks comes from wheels, which a machine with a network collects:
#   bash launch/gpu_check.sh --collect-wheels=wheels/
# --help tells all flags. The figures are in report.md and report.json of the output.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python3}" -m m2dit_jax.tools.gpu_check "$@"
