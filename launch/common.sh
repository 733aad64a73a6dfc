# Sourced by the launchers: arguments, quoting, run or print, code snapshots, restarts.
# A launcher defines usage(), sets its defaults and calls parse_arguments.
# shellcheck shell=bash disable=SC2034

config=""
workdir=""
bucket=""
dry_run=""
train_flags=()

# Status 2 everywhere: the user's input is wrong, nothing was started, do not try again.
fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# parse_arguments "NAMES THAT TAKE A VALUE" "SWITCHES" "$@"
# sets a variable for each that is given (--max-restarts: max_restarts) and train_flags.
# What it does not know is refused: a typo must not first be noticed on a rented pod.
parse_arguments() {
  local valued=" config workdir $1 " switches=" dry-run $2 " flag
  shift 2
  while (($#)); do
    flag=${1#--}
    flag=${flag%%=*}
    case $1 in
      -h | --help)
        usage
        exit
        ;;
      --)
        shift
        train_flags+=("$@")
        break
        ;;
      --config.*=*) train_flags+=("$1") ;;
      --config.*) fail "$1 needs its value after a '=', as in $1=VALUE" ;;
      --*=*)
        if [[ $switches == *" $flag "* ]]; then fail "--$flag takes no value"; fi
        [[ $valued == *" $flag "* ]] || unknown "$1"
        [[ -n ${1#*=} ]] || fail "--$flag needs a value"
        printf -v "${flag//-/_}" %s "${1#*=}"
        ;;
      --*)
        if [[ $valued == *" $flag "* ]]; then
          [[ -n ${2-} && ${2-} != --* ]] || fail "$1 needs a value"
          printf -v "${flag//-/_}" %s "$2"
          shift
        else
          [[ $switches == *" $flag "* ]] || unknown "$1"
          printf -v "${flag//-/_}" %s yes
        fi
        ;;
      *) unknown "$1" ;;
    esac
    shift
  done
}

unknown() {
  fail "unknown argument $1; flags of m2dit_jax.train follow a '--'; see --help"
}

# require NAME...: the arguments with these names must have been given.
require() {
  local flag variable
  for flag in "$@"; do
    variable=${flag//-/_}
    [[ -n ${!variable} ]] || fail "needs --$flag=...; see --help"
  done
}

# require_number NAME MINIMUM
require_number() {
  local variable=${1//-/_}
  [[ ${!variable} =~ ^[0-9]{1,9}$ && ${!variable} -ge $2 ]] ||
    fail "--$1=${!variable}: must be a whole number of at least $2"
}

# Google's and Kubernetes' rule for the names of machines and workloads.
require_cloud_name() {
  local name=$1
  [[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "--name=$name: must be up to 40 lower-case letters, digits and -, the first a letter"
}

is_remote() {
  [[ $1 == gs://?* || $1 == s3://?* ]]
}

# A --bucket that is an address, as in gs://NAME, has the workdir unless one is given.
workdir_in_bucket() {
  local file
  if [[ $bucket != *://* ]]; then return; fi
  is_remote "$bucket" || fail "--bucket=$bucket: must be gs://NAME or s3://NAME"
  require config
  file=$(basename "$(config_file)")
  workdir=${workdir:-${bucket%/}/runs/${file%.py}}
}

require_file_or_remote_workdir() {
  [[ $workdir != *://* ]] || is_remote "$workdir" ||
    fail "--workdir=$workdir: must be a folder, or an address with gs:// or s3://"
}

require_shared_workdir() {
  require_file_or_remote_workdir
  is_remote "$workdir" || [[ $workdir == /* ]] ||
    fail "--workdir=$workdir: must start with / and be a folder that all machines see, or with" \
      "gs:// or s3://"
}

# extras_for EXTRAS WORKDIR: with that of a workdir's kind of bucket.
extras_for() {
  if is_remote "$2"; then echo "$1,${2%%://*}"; else echo "$1"; fi
}

# The file of --config, which names one of configs/ or is a path; an argument may follow a colon.
config_file() {
  local file=${config%%:*}
  if [[ ! -e $file && -f configs/$file.py ]]; then file=configs/$file.py; fi
  echo "$file"
}

# What runs elsewhere is the last commit: a config file that is not in it would not be there.
require_committed_config() {
  local file
  file=$(config_file)
  [[ $file == /* ]] || git cat-file -e "HEAD:./$file" 2>/dev/null ||
    fail "--config=$config: $file is not in the last commit, and that is what runs"
  if [[ -n $(git status --porcelain 2>/dev/null) ]]; then
    echo "Warning: there are changes that are not committed; the last commit is what runs." >&2
  fi
}

# One line that any POSIX shell reads back as exactly these words. printf %q does so as well, but
# its backslashes double at every level.
quote() {
  local apostrophe="'" escaped="'\"'\"'" line="" word
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//$apostrophe/$escaped}'"
    line+="$word "
  done
  echo "${line% }"
}

# Runs a command, or prints it for --dry-run.
run() {
  if [[ -n $dry_run ]]; then quote "$@"; else "$@"; fi
}

# The training command; more flags can be given.
train_command() {
  command=(python -m m2dit_jax.train --config="$config" --workdir="$workdir" "$@"
    ${train_flags[@]+"${train_flags[@]}"})
}

# Rented machines tend to come with Python 3.10: uv fetches one that env.sh takes.
bring_python() {
  local venv=${M2DIT_VENV:-.venv}
  if [[ -e $venv ]] || python3 -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' \
    2>/dev/null; then
    return
  fi
  python3 -m pip install --quiet --user uv
  "$HOME/.local/bin/uv" venv --quiet --seed --python 3.11 "$venv"
}

# latest_step WORKDIR: step of the newest complete checkpoint, 0 if there is none.
latest_step() {
  local folder step latest=0
  if is_remote "$1"; then
    python -m m2dit_jax.utils.remote.latest_step "$1"
    return
  fi
  for folder in "$1"/checkpoints/*/; do
    step=$(basename "$folder")
    # While one is being written, its name has an ending.
    if [[ $step =~ ^[1-9][0-9]*$ ]] && ((step > latest)); then latest=$step; fi
  done
  echo "$latest"
}

# may_restart STATUS STEP: whether a run that ended with STATUS, having last gone on from STEP,
# should be started again: not if its input is wrong or someone stopped it (130), nor after
# max_restarts starts from one and the same step.
max_restarts=5
restarts=0
last_step=-1
may_restart() {
  if (($1 == 2)); then
    echo "The training refused its input (status 2): not started again." >&2
    return 1
  fi
  if (($1 == 130)); then return 1; fi
  if (($2 > last_step)); then
    restarts=0
    last_step=$2
  fi
  if ((restarts >= max_restarts)); then
    echo "Ended with status $1; no progress since step $2 in $restarts restarts: given up." >&2
    return 1
  fi
  restarts=$((restarts + 1))
  echo "Ended with status $1: restart $restarts of $max_restarts from step $2." >&2
}

# with_restarts SECONDS COMMAND...: runs it until it succeeds or may_restart says no, with a
# pause before each restart. SIGTERM (143) is for the caller to handle: the machine goes away.
with_restarts() {
  local pause=$1 status
  shift
  while :; do
    status=0
    "$@" || status=$?
    if ((status == 0 || status == 143)); then return "$status"; fi
    may_restart "$status" "$(latest_step "$workdir")" || return "$status"
    sleep "$pause"
  done
}
