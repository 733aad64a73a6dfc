#!/usr/bin/env bash
# What tpu_pod.sh and tpu_queued.sh have every TPU VM do, from ~/m2dit_jax, where they put the code.
#   tpu_worker.sh install WORKDIR      environment in ~/m2dit_venv
#   tpu_worker.sh mount BUCKET         at /mnt/BUCKET
#   tpu_worker.sh train WORKDIR FLAGS  starts the training, or finds it running, and shows its output
#   tpu_worker.sh stop                 has it save a checkpoint and end
#   tpu_worker.sh running              status 0 if it is
#   tpu_worker.sh step WORKDIR         step of the latest checkpoint
#   tpu_worker.sh logs WORKDIR         copies the logs of all workers to ~/m2dit_run/logs
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh
export M2DIT_VENV=$HOME/m2dit_venv
state=$HOME/m2dit_run
mkdir -p "$state"

install() {
  bring_python
  source launch/env.sh "$(extras_for tpu "$1")"
}

mount_bucket() {
  local folder=/mnt/$1
  if mountpoint -q "$folder"; then return; fi
  if ! command -v gcsfuse >/dev/null; then
    local site=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
    curl -fsS "$site/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update
    sudo apt-get -qq install -y gcsfuse
  fi
  sudo mkdir -p "$folder"
  sudo chown "$(id -u):$(id -g)" "$folder"
  # Without the limit gcsfuse refuses to rename folders, which is how a checkpoint is finished.
  gcsfuse --implicit-dirs --rename-dir-limit=1000000 "$1" "$folder"
}

running() {
  [[ -s $state/pid && ! -e $state/status ]] && kill -0 "$(cat "$state/pid")" 2>/dev/null
}

# Outlives the connection: gcloud runs a command again when its connection breaks, and then finds
# the training running.
start_detached() {
  rm -f "$state/pid" "$state/status" "$state/stopped"
  quote "$@" >"$state/command"
  # shellcheck disable=SC2016
  setsid nohup bash -c 'state=$1; shift
    "$@" & echo $! >"$state/pid"
    status=0; wait $! || status=$?
    echo "$status" >"$state/status.new"; mv "$state/status.new" "$state/status"' \
    - "$state" "$@" >>"$state/log" 2>&1 </dev/null &
  until [[ -s $state/pid ]]; do sleep 0.1; done
}

train() {
  local first_line=1 status
  workdir=$1
  shift
  source launch/env.sh "$(extras_for tpu "$workdir")"
  touch "$state/log"
  if running; then
    [[ $(cat "$state/command") == "$(quote "$@")" ]] ||
      fail "another training is running here, stop it first: $(cat "$state/command")"
    echo "The training is already running; its output:"
    first_line=$(($(wc -l <"$state/log") - 20))
  else
    first_line=$(($(wc -l <"$state/log") + 1))
    start_detached "$@"
  fi
  tail -n "+$((first_line > 0 ? first_line : 1))" -F --pid="$(cat "$state/pid")" "$state/log" 2>/dev/null
  for ((i = 0; i < 100; i++)); do
    [[ ! -s $state/status ]] || break
    sleep 0.1
  done
  status=$(cat "$state/status" 2>/dev/null || echo 1)
  if ! is_remote "$workdir"; then
    { mkdir -p "$workdir/logs" && cp "$state/log" "$workdir/logs/$(hostname).log"; } || true
  fi
  if [[ -e $state/stopped ]]; then status=130; fi
  return "$status"
}

stop() {
  if ! running; then
    echo "No training is running on $(hostname)."
    return
  fi
  touch "$state/stopped"
  kill -TERM "$(cat "$state/pid")"
  echo "Asked the training on $(hostname) to save and stop."
}

collect_logs() {
  rm -rf "$state/logs"
  mkdir -p "$state/logs"
  cp "$1"/logs/*.log "$state/logs/" 2>/dev/null || cp "$state/log" "$state/logs/$(hostname).log"
}

show_step() {
  if is_remote "$1"; then source launch/env.sh "$(extras_for tpu "$1")" >&2; fi
  latest_step "$1"
}

case $1 in
  install) install "${2-}" ;;
  mount) mount_bucket "$2" ;;
  train) shift && train "$@" ;;
  stop) stop ;;
  running) running ;;
  step) show_step "$2" ;;
  logs) collect_logs "$2" ;;
  *) fail "unknown command $1" ;;
esac
