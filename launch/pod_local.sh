#!/usr/bin/env bash
# Trains in several processes on this machine, to try out what runs on a pod.
# shellcheck disable=SC2329  # functions that traps call
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: launch/pod_local.sh [--processes=N] [--config=FILE] [--workdir=DIR] [--config.FIELD=VALUE...]
                           [-- TRAIN FLAGS...]

Runs m2dit_jax.train in N processes that work as one, on CPU devices of this machine.
Makes an environment in .venv on first use.

  --processes=N            default 2
  --devices-per-process=K  default 1
  --config=FILE            default configs/base.py
  --workdir=DIR            default runs/NAME_OF_THE_CONFIG; output goes to DIR/logs/process_I.log
  --config.FIELD=VALUE     changes a field of the config; other flags of the training follow a --
  --grace-seconds=S        default 150: time that the others get to stop by themselves after one
                           failed, then they are killed
  --dry-run                only show the commands

The output of process 0 is shown. Ctrl-C saves and stops, a second one stops at once. The exit
status is that of the process that failed first. Relative paths start at the repository root.
USAGE
}

processes=2
devices_per_process=1
grace_seconds=150
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh
config=configs/base.py
parse_arguments "processes devices-per-process grace-seconds" "" "$@"
require_number processes 1
require_number devices-per-process 1
require_number grace-seconds 0
if [[ -z $workdir ]]; then workdir=runs/$(basename "${config%%.py*}"); fi

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    # A connection is refused where nobody listens.
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

coordinator=127.0.0.1:$(free_port)
process_command() {
  train_command --coordinator="$coordinator" --processes="$processes" --process="$1"
  command=(env JAX_PLATFORMS=cpu
    XLA_FLAGS="--xla_force_host_platform_device_count=$devices_per_process" "${command[@]}")
}

if [[ -n $dry_run ]]; then
  echo "source launch/env.sh ''"
  for ((i = 0; i < processes; i++)); do
    process_command "$i"
    echo "$(quote "${command[@]}") >>$(quote "$workdir/logs/process_$i.log") 2>&1 &"
  done
  exit
fi

source launch/env.sh ""

logs=$workdir/logs
mkdir -p "$logs"
scratch=$(mktemp -d)
pids=()
shower=""
asked_to_stop=""

forward() {
  asked_to_stop=yes
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill -s "$1" "$pid" 2>/dev/null || true; done
}

# Each process has a process group of its own, so this ends its children too.
kill_all() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}

clean_up() {
  trap '' INT TERM HUP
  kill_all
  if [[ -n $shower ]]; then kill "$shower" 2>/dev/null || true; fi
  rm -rf "$scratch"
}

trap clean_up EXIT
trap 'forward INT' INT
trap 'forward TERM' TERM HUP

# Job control, while they start, gives each a process group: otherwise Ctrl-C would reach them
# twice, from the terminal and from forward(), and the second signal aborts without saving.
set -m
mkfifo "$scratch/output"
tee -a "$logs/process_0.log" <"$scratch/output" &
shower=$!
for ((i = 0; i < processes; i++)); do
  process_command "$i"
  output=$logs/process_$i.log
  if ((i == 0)); then output=$scratch/output; fi
  "${command[@]}" </dev/null >>"$output" 2>&1 &
  pids+=($!)
done
set +m

statuses=()
first_failed=""
running=$processes
while ((running)); do
  sleep 0.2 || true
  for ((i = 0; i < processes; i++)); do
    if [[ -n ${statuses[i]-} ]] || kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
    statuses[i]=0
    wait "${pids[i]}" || statuses[i]=$?
    running=$((running - 1))
    if ((statuses[i] != 0)) && [[ -z $first_failed ]]; then
      first_failed=$i
      deadline=$((SECONDS + grace_seconds))
    fi
  done
  if ((running)) && [[ -n $first_failed ]] && ((SECONDS >= deadline)); then
    echo "Process $first_failed failed, $running others still run after $grace_seconds s: killed." >&2
    kill_all
    deadline=$((SECONDS + 10))
  fi
done
# What process 0 wrote last is shown before anything else; its children might keep the pipe open.
for ((i = 0; i < 25; i++)); do
  kill -0 "$shower" 2>/dev/null || break
  sleep 0.2 || true
done

if [[ -z $first_failed ]]; then exit 0; fi
status=${statuses[first_failed]}
if [[ -n $asked_to_stop ]] && ((status == 130 || status == 143)); then
  echo "Stopped. The same command goes on from the latest checkpoint." >&2
else
  {
    echo
    echo "Process $first_failed failed first, with status $status. The end of its output:"
    tail -n 30 "$logs/process_$first_failed.log"
    echo "All output: $logs/process_*.log"
  } >&2
fi
exit "$status"
