# Sourced by tpu_pod.sh and tpu_queued.sh after common.sh: what they do alike with a TPU VM.
# shellcheck shell=bash disable=SC2034,SC2154

name=""
zone=""
project=""
accelerator_type=""
runtime_version=""
bucket=""
network=""
spot=""
stop=""
delete=""
TPU_VALUES="name zone project accelerator-type runtime-version bucket network"
TPU_SWITCHES="spot stop delete"

tpu_usage() {
  cat <<'USAGE'
  --name=NAME              of the TPU VM
  --zone=ZONE              e.g. us-east5-a
  --accelerator-type=TYPE  e.g. v5p-16, v6e-8, v5litepod-16
  --config=FILE            in the last commit: that is the code that runs
  --workdir=DIR            gs://BUCKET/runs/base, or the same shared folder on all workers, e.g.
                           /mnt/BUCKET/runs/base
  --config.FIELD=VALUE     changes a field of the config; other flags of the training follow a --

  --project=PROJECT        default: gcloud's
  --bucket=gs://BUCKET     the workdir is gs://BUCKET/runs/CONFIG unless it is given; as a name
                           alone: mount gs://BUCKET at /mnt/BUCKET on all workers
  --runtime-version=NAME   default: the one for the accelerator type
  --network=NAME           default: Google's default network
  --spot                   cheaper, and may be taken away at any time
  --dry-run                only show the commands

  --stop                   save a checkpoint and end the training
  --delete                 delete the TPU VM with all that is on it
Both need only --name and --zone.
USAGE
}

check_tpu_arguments() {
  require name zone
  require_cloud_name "$name"
  if [[ -n $stop || -n $delete ]]; then return; fi
  workdir_in_bucket
  require accelerator-type config workdir
  require_shared_workdir
  require_committed_config
  if [[ -n $runtime_version ]]; then return; fi
  case $accelerator_type in
    v2-* | v3-* | v4-*) runtime_version=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 ;;
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    *) fail "--accelerator-type=$accelerator_type: needs a --runtime-version too; known are v2-N," \
      "v3-N, v4-N, v5litepod-N, v5p-N and v6e-N" ;;
  esac
}

# tpu GROUP VERB ARGUMENTS...: gcloud compute tpus GROUP VERB, in the zone and project.
tpu() {
  run gcloud compute tpus "$@" --zone="$zone" ${project:+--project="$project"}
}

# on_workers WHICH COMMAND...: the remote shell takes one string, so its words are quoted for it.
on_workers() {
  local which=$1
  shift
  tpu tpu-vm ssh "$name" --worker="$which" --command="$(quote "$@")"
}

# State of a resource, empty if it does not exist; gcloud's other errors are shown.
tpu_state() {
  local errors state=""
  errors=$(mktemp)
  if ! state=$(tpu "$1" describe "$2" --format="value($3)" 2>"$errors") &&
    ! grep -qi "not.found" "$errors"; then
    cat "$errors" >&2
    rm "$errors"
    return 1
  fi
  rm "$errors"
  echo "$state"
}

# The flags that both ways to create a TPU VM have in common.
create_flags() {
  flags=(--accelerator-type="$accelerator_type")
  if [[ -n $network ]]; then flags+=(--network="$network"); fi
  if [[ -n $spot ]]; then flags+=(--spot); fi
}

# Code and environment on all workers; those where a training runs keep what they have.
prepare_workers() {
  local archive worker=m2dit_jax/launch/tpu_worker.sh
  archive=$(mktemp -d)/m2dit_jax.tar.gz
  run git archive --format=tar.gz --output="$archive" HEAD &&
    tpu tpu-vm scp "$archive" "$name:" --worker=all &&
    tpu tpu-vm ssh "$name" --worker=all --command="bash $worker running 2>/dev/null ||\
 { rm -rf m2dit_jax && mkdir m2dit_jax && tar -xzf m2dit_jax.tar.gz -C m2dit_jax; }" &&
    on_workers all bash "$worker" install "$workdir" &&
    if [[ -n $bucket && $bucket != *://* ]]; then on_workers all bash "$worker" mount "$bucket"; fi
  local status=$?
  rm -rf "$(dirname "$archive")"
  return "$status"
}

train_on_workers() {
  train_command --distributed
  on_workers all bash m2dit_jax/launch/tpu_worker.sh train "$workdir" "${command[@]}"
}

fetch_logs() {
  local logs=runs/$name  # becomes runs/NAME/logs
  run mkdir -p "$logs"
  on_workers 0 bash m2dit_jax/launch/tpu_worker.sh logs "$workdir" &&
    tpu tpu-vm scp "$name:m2dit_run/logs" "$logs" --recurse --worker=0
}
