#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod from a queued resource: waits until there is one, runs as
# tpu_pod.sh does, and when a spot TPU is taken away, queues for the next and goes on.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: launch/tpu_queued.sh --name=NAME --zone=ZONE --accelerator-type=TYPE --config=FILE --workdir=DIR
                            [--spot] [--config.FIELD=VALUE...] [OPTIONS] [-- TRAIN FLAGS...]
       launch/tpu_queued.sh --name=NAME --zone=ZONE --stop
       launch/tpu_queued.sh --name=NAME --zone=ZONE --delete

USAGE
  tpu_usage
  cat <<'USAGE'
  --max-restarts=N         default 5: give up after so many restarts without a new checkpoint
  --poll-seconds=S         default 60: how often to look whether the TPU has come
  --keep                   do not delete the TPU when the training has ended

Has to keep running, e.g. in tmux on a small VM: it is what queues again. The same command takes
up where it was. After --stop it deletes the TPU as after the end, unless --keep.
USAGE
}

poll_seconds=60
keep=""
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh
source launch/tpu.sh
parse_arguments "$TPU_VALUES max-restarts poll-seconds" "$TPU_SWITCHES keep" "$@"
require_number max-restarts 0
require_number poll-seconds 0
check_tpu_arguments

delete_resource() {
  tpu queued-resources delete "$name" --force --quiet
}

if [[ -n $stop ]]; then
  on_workers all bash m2dit_jax/launch/tpu_worker.sh stop
  exit
fi
if [[ -n $delete ]]; then
  delete_resource
  exit
fi

create_resource() {
  create_flags
  tpu queued-resources create "$name" --node-id="$name" "${flags[@]}" \
    --runtime-version="$runtime_version"
}

# Returns when the TPU VM is ready; asks for a new one if it was taken away.
wait_for_tpu() {
  local state node before=""
  if [[ -n $dry_run ]]; then
    create_resource
    echo "# Asks every $poll_seconds s until the state is ACTIVE:"
    tpu queued-resources describe "$name" --format="value(state.state)"
    return
  fi
  while :; do
    # Without an answer nothing is known: the training may well be running.
    if ! state=$(tpu_state queued-resources "$name" state.state); then
      sleep "$poll_seconds"
      continue
    fi
    if [[ $state != "$before" ]]; then echo "$name: ${state:-does not exist yet}" >&2; fi
    before=$state
    case $state in
      "") create_resource || return ;;
      ACTIVE)
        node=$(tpu_state tpu-vm "$name" state) || node=unknown
        case $node in
          READY) return ;;
          "" | PREEMPTED | TERMINATED | STOPPED)
            echo "$name was taken away (${node:-deleted}): queueing for another." >&2
            delete_resource || return
            continue
            ;;
        esac
        ;;
      SUSPENDED)
        echo "$name was taken away: queueing for another." >&2
        delete_resource || return
        continue
        ;;
      FAILED)
        tpu queued-resources describe "$name" >&2 || true
        delete_resource || return
        fail "the request failed, see above"
        ;;
    esac
    sleep "$poll_seconds"
  done
}

# One life of a TPU, from the queue to the end of the training or of the TPU.
attempt() {
  local now
  wait_for_tpu || return
  prepare_workers || return 1
  if [[ -z $dry_run ]]; then
    now=$(on_workers 0 bash m2dit_jax/launch/tpu_worker.sh step "$workdir") || return 1
    if [[ $now =~ ^[0-9]+$ ]]; then step=$now; fi
  fi
  train_on_workers
}

trap 'echo "Interrupted. $name is left as it is, and costs; --stop or --delete it." >&2; exit 130' INT TERM
# What is wrong with project, zone or rights shows here.
if [[ -z $dry_run ]]; then tpu_state queued-resources "$name" state.state >/dev/null; fi
step=0
while :; do
  status=0
  attempt || status=$?
  if ((status == 0)); then break; fi
  may_restart "$status" "$step" || break
  sleep "$poll_seconds"
done
# Of a TPU that was taken away there are none.
fetch_logs || true
if [[ -z $keep ]]; then
  delete_resource || echo "Could not delete $name: see whether it is still there, and costs." >&2
fi
exit "$status"
