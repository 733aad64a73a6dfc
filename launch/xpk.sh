#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster with xpk, which builds an image with the last commit in it
# and has Kubernetes restart the training.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: launch/xpk.sh --name=NAME --cluster=CLUSTER --tpu-type=TYPE --config=FILE --workdir=DIR
                     [--config.FIELD=VALUE...] [OPTIONS] [-- TRAIN FLAGS...]
       launch/xpk.sh --name=NAME --cluster=CLUSTER --delete

  --name=NAME              of the workload
  --cluster=CLUSTER        made with `xpk cluster create`
  --tpu-type=TYPE          e.g. v5p-16, v6e-16
  --config=FILE            in the last commit: that is the code that runs
  --workdir=DIR            gs://BUCKET/runs/base, or the same shared folder on all machines: where
                           the storage is mounted
  --config.FIELD=VALUE     changes a field of the config; other flags of the training follow a --

  --bucket=gs://BUCKET     the workdir is gs://BUCKET/runs/CONFIG unless it is given
  --num-slices=N           default 1
  --storage=NAME           made with `xpk storage create` or attach; storages with --auto-mount=true
                           need not be named
  --base-docker-image=NAME default python:3.11; with the dependencies in it the start is faster
  --max-restarts=N         default 5
  --spot                   for clusters with autoprovisioning; otherwise the node pool decides
  --zone=ZONE --project=PROJECT  default: gcloud's
  --dry-run                only show the commands
  --delete                 end the training and delete the workload
USAGE
}

name=""
cluster=""
tpu_type=""
num_slices=1
bucket=""
storage=""
base_docker_image=python:3.11
spot=""
zone=""
project=""
delete=""
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh
parse_arguments \
  "name cluster bucket tpu-type num-slices storage base-docker-image max-restarts zone project" \
  "spot delete" "$@"
require name cluster
require_cloud_name "$name"
place=(--cluster="$cluster" ${zone:+--zone="$zone"} ${project:+--project="$project"})

if [[ -n $delete ]]; then
  run xpk workload delete --workload="$name" "${place[@]}"
  exit
fi

workdir_in_bucket
require tpu-type config workdir
require_number num-slices 1
require_number max-restarts 0
require_shared_workdir
require_committed_config

# exec: xpk passes SIGTERM to what runs last, and it must reach Python.
train_command --distributed
in_container="pip install --quiet --editable '.[$(extras_for tpu "$workdir")]' && exec $(quote "${command[@]}")"
# Kubernetes replaces $(NAME) in commands, and $$ by $.
dollar='$'
in_container=${in_container//"$dollar"/"$dollar$dollar"}

# Status 1 and everything but 0 and 2: xpk adds 42 and 127-255 by itself. 120 s is what processes
# need at most to save when a node goes away.
# shellcheck disable=SC2054
flags=(--workload="$name" "${place[@]}" --tpu-type="$tpu_type" --num-slices="$num_slices"
  --max-restarts="$max_restarts" --restart-on-exit-codes=1,3-126
  --termination-grace-period-seconds=120 --base-docker-image="$base_docker_image")
if [[ -n $storage ]]; then flags+=(--storage="$storage"); fi
if [[ -n $spot ]]; then flags+=(--spot); fi

snapshot=$(mktemp -d)
trap 'rm -rf "$snapshot"' EXIT
run git archive --output="$snapshot/code.tar" HEAD
run mkdir "$snapshot/code"
run tar -xf "$snapshot/code.tar" -C "$snapshot/code"
run xpk workload create "${flags[@]}" --script-dir="$snapshot/code" --command="$in_container"

if [[ -z $dry_run ]]; then
  cat >&2 <<NEXT
Watch:   kubectl logs --follow --prefix --max-log-requests=99 --selector=jobset.sigs.k8s.io/jobset-name=$name
State:   $(quote xpk workload list "${place[@]}")
Stop:    $(quote launch/xpk.sh --name="$name" "${place[@]}" --delete)
NEXT
fi
