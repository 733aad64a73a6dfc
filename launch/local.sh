#!/usr/bin/env bash
# Trains the small model, samples a story from it and evaluates it, on whatever device jax finds.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: launch/local.sh [--config=FILE] [--workdir=DIR] [TRAIN FLAGS...]

Trains, samples the storyboard configs/storyboards/lone_actor.yaml and evaluates.
Makes an environment in .venv on first use.

  --config=FILE   default configs/base.py
  --workdir=DIR   checkpoints and results; default runs/NAME_OF_THE_CONFIG
  TRAIN FLAGS     go to m2dit_jax.train, e.g. --config.seed=1

Relative paths start at the repository root. JAX_PLATFORMS=cpu forces a CPU run.
USAGE
}

config=configs/base.py
workdir=""
train_flags=()
while (($#)); do
  case $1 in
    -h | --help)
      usage
      exit
      ;;
    --config | --workdir)
      if (($# < 2)); then
        echo "$1 needs a value" >&2
        exit 2
      fi
      if [[ $1 == --config ]]; then config=$2; else workdir=$2; fi
      shift
      ;;
    --config=*) config=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    *) train_flags+=("$1") ;;
  esac
  shift
done

if [[ -z $workdir ]]; then workdir=runs/$(basename "${config%%.py*}"); fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh ""

# A tenth faster on CPUs, as malloc then asks for huge pages; only glibc reads it.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

# ${array[@]+...}: the bash of macOS calls an empty array unbound.
python -m m2dit_jax.train --config="$config" --workdir="$workdir" \
  ${train_flags[@]+"${train_flags[@]}"}
python -m m2dit_jax.sample --checkpoint="$workdir" \
  --storyboard=configs/storyboards/lone_actor.yaml --output="$workdir/sample"
python -m m2dit_jax.evaluate --checkpoint="$workdir" --json="$workdir/report.json" \
  --sheet="$workdir/evaluation.png"

cat <<DONE

Video:          $workdir/sample/story.mp4
Contact sheet:  $workdir/sample/contact_sheet.png
Report:         $workdir/report.json
Graded stories: $workdir/evaluation.png
DONE
