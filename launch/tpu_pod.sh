#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod: creates it or uses the one there is, installs, runs on all
# workers and fetches the logs.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: launch/tpu_pod.sh --name=NAME --zone=ZONE --accelerator-type=TYPE --config=FILE --workdir=DIR
                         [--config.FIELD=VALUE...] [OPTIONS] [-- TRAIN FLAGS...]
       launch/tpu_pod.sh --name=NAME --zone=ZONE --stop
       launch/tpu_pod.sh --name=NAME --zone=ZONE --delete

USAGE
  tpu_usage
  cat <<'USAGE'

The training runs on when the connection is lost; the same command then shows its output again.
After the training the TPU VM stays, and costs, until it is deleted.
USAGE
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh
source launch/tpu.sh
parse_arguments "$TPU_VALUES" "$TPU_SWITCHES" "$@"
check_tpu_arguments

if [[ -n $stop ]]; then
  on_workers all bash m2dit_jax/launch/tpu_worker.sh stop
  exit
fi
if [[ -n $delete ]]; then
  tpu tpu-vm delete "$name" --quiet
  exit
fi

state=""
if [[ -z $dry_run ]]; then state=$(tpu_state tpu-vm "$name" state); fi
case $state in
  "")
    create_flags
    tpu tpu-vm create "$name" "${flags[@]}" --version="$runtime_version"
    ;;
  READY) echo "Using the TPU VM $name that there is." >&2 ;;
  PREEMPTED | TERMINATED)
    fail "the TPU VM $name was taken away ($state): --delete it, then run this again, or use" \
      "launch/tpu_queued.sh, which does so by itself"
    ;;
  *) fail "the TPU VM $name is $state: wait until it is READY, or --delete it" ;;
esac

delete_command=$(quote launch/tpu_pod.sh --name="$name" --zone="$zone" \
  ${project:+--project="$project"} --delete)
if [[ -z $dry_run ]]; then
  trap 'echo "$name costs money until you run: $delete_command" >&2' EXIT
fi
prepare_workers
status=0
train_on_workers || status=$?
fetch_logs || true
exit "$status"
