"""The launchers against fakes of what they call; each fake logs how it is called."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch" / "slurm.sbatch"])

NASTY = '--config.note=it\'s "a" $(touch pwned); `touch pwned` & | * ~ \\ $$ #'
TPU = ["--name=pod", "--zone=us-a", "--accelerator-type=v5p-16"]
TRAIN = ["--config=configs/base.py", "--workdir=/mnt/x/runs/a b", NASTY, "--", "--other=1"]
LAUNCHERS = {
    "pod_local.sh": ["--processes=2"],
    "tpu_pod.sh": [*TPU, "--bucket=x", "--project=p", "--network=n"],
    "tpu_queued.sh": [*TPU, "--spot", "--poll-seconds=0"],
    "xpk.sh": ["--name=job", "--cluster=c", "--tpu-type=v6e-16", "--num-slices=2", "--storage=s"],
    "slurm.sbatch": ["--nodes=2", "--gpus-per-node=4", "--partition=gpu"],
}

LOG = """#!/bin/bash
{ printf '%s' "${0##*/}"; printf '\\037%s' "$@"; echo; } >>"$FAKE/log"
"""
# What python does is what the file $FAKE/train says when it is asked to train.
PYTHON = (
    LOG
    + """case "$1 $2" in
  "-m venv") rm -rf "${@: -1}"; mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
  "-m ensurepip") exit 1 ;;
  "-m m2dit_jax.train") if [[ -e $FAKE/train ]]; then source "$FAKE/train"; fi ;;
esac
"""
)
# A TPU VM with one worker, whose home is $FAKE/home; its state is in $FAKE/tpu-vm and that of the
# queued resource in $FAKE/queued-resources.
GCLOUD = (
    LOG
    + """state=$FAKE/$3
case $4 in
  describe)
    if [[ -e $FAKE/offline ]]; then rm "$FAKE/offline"; echo "no connection" >&2; exit 1; fi
    cat "$state" 2>/dev/null || { echo "NOT_FOUND: no $5" >&2; exit 1; } ;;
  create) echo READY >"$FAKE/tpu-vm"; [[ $3 == tpu-vm ]] || echo ACTIVE >"$state" ;;
  delete) rm -f "$FAKE/tpu-vm" "$state" ;;
  scp)
    for path in "$5" "$6" "$7"; do
      case $path in
        pod:*) paths+=("$FAKE/home/${path#pod:}") ;;
        --*) ;;
        *) paths+=("$path") ;;
      esac
    done
    cp -r "${paths[@]}" ;;
  ssh)
    [[ $(cat "$FAKE/tpu-vm") == READY ]] || exit 1
    for flag in "$@"; do [[ $flag != --command=* ]] || command=${flag#--command=}; done
    cd "$FAKE/home" && HOME=$FAKE/home sh -c "$command" ;;
esac
"""
)


def write_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder for the fakes' states and logs; they are first on PATH."""
    folder = tmp_path / "fake"
    (folder / "home").mkdir(parents=True)
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        write_script(folder / "bin" / name, PYTHON)
    write_script(folder / "bin" / "gcloud", GCLOUD)
    for name in ("xpk", "sbatch", "scontrol"):
        write_script(folder / "bin" / name, LOG)
    write_script(
        folder / "bin" / "srun", LOG + 'while [[ $1 == --* ]]; do shift; done; exec "$@"\n'
    )
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    for name in ("M2DIT_VENV", *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    root = tmp_path_factory.mktemp("committed")
    shutil.copytree(ROOT / "launch", root / "launch")
    (root / "configs").mkdir()
    (root / "configs" / "base.py").touch()
    for name in ("", "-tpu", "-cuda"):
        (root / f"requirements{name}.txt").write_text("jax\n")
    (root / ".gitignore").write_text("runs/\n.venv/\n")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    return root


@pytest.fixture
def repo(tmp_path, fake, committed):
    """A repository with launch/ and a config, all committed."""
    shutil.copytree(committed, tmp_path / "repo")
    return tmp_path / "repo"


def launch(repo, script, *arguments, **environment):
    return subprocess.run(
        ["bash", f"launch/{script}", *arguments],
        cwd=repo,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def calls(fake, program):
    """The arguments of each call of the program."""
    log = fake / "log"
    lines = [line.split("\037") for line in log.read_text().splitlines()] if log.exists() else []
    return [arguments for name, *arguments in lines if name.startswith(program)]


def trainings(fake):
    return [call[2:] for call in calls(fake, "python") if call[:2] == ["-m", "m2dit_jax.train"]]


def words(text):
    """Words of each command that a dry run printed, with one name for all temporary folders."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [shlex.split(re.sub(r"/tmp[^ ]*/tmp\.\w+", "TMP", line)) for line in lines]


def wait_for(text, process):
    assert any(text in line for line in iter(process.stdout.readline, ""))


def flag(arguments, name):
    return next(a.split("=", 1)[1] for a in arguments if a.startswith(f"--{name}="))


def shellcheck():
    beside = Path(sys.executable).with_name("shellcheck")
    return str(beside) if beside.exists() else shutil.which("shellcheck")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    program = shellcheck()
    if program is None:
        pytest.skip("optional extra: shellcheck, from requirements-test.txt")
    done = subprocess.run(
        [program, "--external-sources", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", LAUNCHERS)
def test_help_and_dry_run_start_nothing(repo, fake, script):
    done = launch(repo, script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("Usage:") and "--dry-run" in done.stdout
    done = launch(repo, script, *LAUNCHERS[script], "--dry-run", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert not (fake / "log").exists() and not (repo / "runs").exists()
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("script", LAUNCHERS)
def test_dry_run_keeps_the_training_command_word_for_word(repo, script):
    done = launch(repo, script, *LAUNCHERS[script], "--dry-run", *TRAIN)
    printed = [line for line in done.stdout.splitlines() if "m2dit_jax.train " in line][-1]
    command = shlex.split(printed)
    if "--command=" in printed:  # for a shell elsewhere
        command = shlex.split(flag(command, "command").replace("$$", "$"))
    start = command.index("m2dit_jax.train") + 1
    expected = [TRAIN[0], TRAIN[1], NASTY, "--other=1"]
    if script == "xpk.sh":
        assert "$$(touch pwned)" in printed
    else:
        expected[2] = (
            NASTY if script in ("pod_local.sh", "slurm.sbatch") else NASTY.replace("$$", "$")
        )
    kept = [word for word in command[start:] if word in expected]
    assert kept == expected


@pytest.mark.parametrize("script", ["tpu_pod.sh", "tpu_queued.sh", "xpk.sh"])
def test_dry_run_prints_what_is_run(repo, fake, tmp_path, script):
    arguments = [*LAUNCHERS[script], "--config=configs/base.py", f"--workdir={tmp_path}/w", NASTY]
    arguments = [a for a in arguments if not a.startswith("--bucket")]
    printed = words(launch(repo, script, "--dry-run", *arguments).stdout)
    done = launch(repo, script, *arguments)
    assert done.returncode == 0, done.stderr
    program = "xpk" if script == "xpk.sh" else "gcloud"
    # Questions about states and steps come in between.
    asks = ("describe", "--command=bash m2dit_jax/launch/tpu_worker.sh step")
    said = [line[1:] for line in printed if line[0] == program and not any(a in asks for a in line)]
    ran = [
        call
        for call in words("\n".join(shlex.join(call) for call in calls(fake, program)))
        if not any(a.startswith(asks) for a in call)
    ]
    assert ran == said and len(ran) >= 1
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        *((script, ["--confg=x"], "unknown argument --confg=x") for script in LAUNCHERS),
        ("xpk.sh", ["500"], "unknown argument 500"),
        ("xpk.sh", ["--spot=yes"], "takes no value"),
        ("xpk.sh", ["--workdir", "--spot"], "--workdir needs a value"),
        ("xpk.sh", ["--workdir="], "--workdir needs a value"),
        ("pod_local.sh", ["--processes=0"], "--processes=0: must be"),
        ("pod_local.sh", ["--config.train.steps", "5"], "as in --config.train.steps=VALUE"),
        ("tpu_pod.sh", ["--name=a"], "needs --zone"),
        ("tpu_pod.sh", ["--name=A_b", "--zone=z"], "lower-case"),
        ("tpu_pod.sh", [*TPU, "--config=c.py"], "needs --workdir"),
        ("tpu_pod.sh", [*TPU, "--config=c.py", "--workdir=gs://x/y"], "/mnt/x/y"),
        ("tpu_pod.sh", [*TPU, "--config=c.py", "--workdir=runs/a"], "must start with /"),
        ("tpu_pod.sh", [*TPU, "--config=c.py", "--workdir=/w"], "c.py is not in the last commit"),
        ("tpu_pod.sh", [*TPU, *TRAIN[:2], "--accelerator-type=v9-8"], "--runtime-version"),
        ("tpu_queued.sh", [*TPU, "--max-restarts=x"], "--max-restarts=x: must be"),
        ("xpk.sh", ["--name=a", "--cluster=c"], "needs --tpu-type"),
        ("slurm.sbatch", ["--config=configs/base.py"], "needs --workdir"),
        ("slurm.sbatch", ["--config=no.py", "--workdir=w"], "no such file"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_started(
    repo, fake, script, arguments, message
):
    done = launch(repo, script, *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert not (fake / "log").exists()


def test_what_is_not_committed_is_said(repo):
    (repo / "configs" / "base.py").write_text("changed")
    done = launch(repo, "tpu_pod.sh", *TPU, "--dry-run", *TRAIN)
    assert "Warning" in done.stderr


def tpu_arguments(tmp_path):
    return [*TPU, "--config=configs/base.py", f"--workdir={tmp_path}/w"]


def test_tpu_pod_creates_trains_and_fetches_logs(repo, fake, tmp_path):
    (fake / "train").write_text("echo from the training; exit 7")
    done = launch(repo, "tpu_pod.sh", *tpu_arguments(tmp_path), NASTY)
    assert done.returncode == 7
    flags = ["--config=configs/base.py", f"--workdir={tmp_path}/w", "--distributed", NASTY]
    assert trainings(fake) == [flags]
    assert "from the training" in done.stdout
    (log,) = (repo / "runs" / "pod" / "logs").glob("*.log")
    assert log.read_text() == "from the training\n"
    assert "--delete" in done.stderr and (fake / "tpu-vm").exists()


def test_tpu_pod_uses_the_machine_that_is_there(repo, fake, tmp_path):
    (fake / "tpu-vm").write_text("READY\n")
    assert launch(repo, "tpu_pod.sh", *tpu_arguments(tmp_path)).returncode == 0
    assert not [call for call in calls(fake, "gcloud") if call[3] == "create"]
    (fake / "tpu-vm").write_text("PREEMPTED\n")
    done = launch(repo, "tpu_pod.sh", *tpu_arguments(tmp_path))
    assert done.returncode == 2 and "taken away" in done.stderr and len(trainings(fake)) == 1
    assert launch(repo, "tpu_pod.sh", *TPU[:2], "--delete").returncode == 0
    assert not (fake / "tpu-vm").exists()


def test_tpu_training_outlives_the_connection_and_can_be_stopped(repo, fake, tmp_path):
    (fake / "train").write_text(
        'trap "echo saved; exit 143" TERM; echo begun; for i in {1..300}; do sleep 0.1; done'
    )
    command = ["bash", "launch/tpu_pod.sh", *tpu_arguments(tmp_path)]
    first = subprocess.Popen(
        command, cwd=repo, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for("begun", first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    second = subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, text=True)
    wait_for("already running", second)
    wait_for("begun", second)
    refused = launch(repo, "tpu_pod.sh", *tpu_arguments(tmp_path), "--config.seed=1")
    assert refused.returncode == 2 and "another training" in refused.stderr
    stopped = launch(repo, "tpu_pod.sh", *TPU[:2], "--stop")
    assert "save and stop" in stopped.stdout
    assert "saved" in second.communicate(timeout=20)[0]
    assert second.returncode == 130 and len(trainings(fake)) == 1


# The first life of the TPU ends after a checkpoint, as the machine of a spot TPU does.
PREEMPTED_ONCE = """mkdir -p "$CHECKPOINTS/100"
if [[ ! -e $FAKE/second ]]; then
  touch "$FAKE/second"; echo "$LATER" >"$FAKE/${LATER_OF}"; echo PREEMPTED >"$FAKE/tpu-vm"; exit 143
fi
"""


@pytest.mark.parametrize("kind", ["SUSPENDED", "ACTIVE"])
def test_tpu_queued_goes_on_after_a_preemption(repo, fake, tmp_path, kind):
    (fake / "train").write_text(PREEMPTED_ONCE)
    done = launch(
        repo,
        "tpu_queued.sh",
        *tpu_arguments(tmp_path),
        "--spot",
        "--poll-seconds=0",
        CHECKPOINTS=f"{tmp_path}/w/checkpoints",
        LATER=kind,
        LATER_OF="queued-resources",
    )
    assert done.returncode == 0, done.stderr
    verbs = [call[3] for call in calls(fake, "gcloud") if call[2] == "queued-resources"]
    assert [verb for verb in verbs if verb != "describe"] == ["create", "delete"] * 2
    first, second = trainings(fake)
    assert first == second


@pytest.mark.parametrize(
    "train, status, times",
    [
        ("exit 2", 2, 1),
        ("exit 1", 1, 2),
        # A new checkpoint the first two times, with which the count begins again.
        ('n=$(ls "$C" | wc -l); (( n == 2 )) || mkdir "$C/$((n + 1))0"; exit 134', 134, 4),
    ],
)
def test_tpu_queued_bounds_restarts(repo, fake, tmp_path, train, status, times):
    (fake / "train").write_text(f"C={tmp_path}/w/checkpoints; mkdir -p $C; {train}")
    arguments = [*tpu_arguments(tmp_path), "--poll-seconds=0", "--max-restarts=1"]
    done = launch(repo, "tpu_queued.sh", *arguments)
    assert done.returncode == status and len(trainings(fake)) == times, done.stderr
    assert not (fake / "tpu-vm").exists()


def test_tpu_queued_waits_for_its_own_connection(repo, fake, tmp_path):
    arguments = [*tpu_arguments(tmp_path), "--poll-seconds=0"]
    (fake / "offline").touch()
    done = launch(repo, "tpu_queued.sh", *arguments)
    assert done.returncode == 1 and "no connection" in done.stderr
    assert len(calls(fake, "gcloud")) == 1  # nothing is created
    (fake / "train").write_text(
        '[[ -e $FAKE/seen ]] || { touch "$FAKE/seen" "$FAKE/offline"; exit 1; }'
    )
    done = launch(repo, "tpu_queued.sh", *arguments, "--max-restarts=1")
    assert done.returncode == 0 and "no connection" in done.stderr
    deletions = [call for call in calls(fake, "gcloud") if call[3] == "delete"]
    assert len(trainings(fake)) == 2 and len(deletions) == 1


def test_tpu_queued_can_keep_the_machine(repo, fake, tmp_path):
    arguments = [*tpu_arguments(tmp_path), "--poll-seconds=0", "--keep"]
    assert launch(repo, "tpu_queued.sh", *arguments).returncode == 0
    assert (fake / "tpu-vm").exists()
    assert launch(repo, "tpu_queued.sh", *TPU[:2], "--delete").returncode == 0
    assert not (fake / "tpu-vm").exists()


def tpu_worker(repo, fake, *arguments):
    return launch(repo, "tpu_worker.sh", *arguments, HOME=str(fake / "home"))


def test_tpu_worker_brings_a_python_where_it_is_too_old(repo, fake):
    for python in (fake / "bin").glob("python3*"):
        write_script(python, PYTHON + "[[ $1 != -c ]]\n")
    write_script(
        fake / "home" / ".local" / "bin" / "uv",
        LOG + 'mkdir -p "${@: -1}/bin"; cp "$FAKE/new" "${@: -1}/bin/python"\n',
    )
    write_script(fake / "new", PYTHON)
    for _ in range(2):
        done = tpu_worker(repo, fake, "install")
        assert done.returncode == 0, done.stderr
    (uv,) = calls(fake, "uv")
    assert uv == ["venv", "--quiet", "--seed", "--python", "3.11", f"{fake}/home/m2dit_venv"]
    assert [call for call in calls(fake, "python") if "requirements-tpu.txt" in call]


def test_tpu_worker_mounts_the_bucket_once(repo, fake):
    write_script(fake / "bin" / "mountpoint", LOG + "[[ -e $FAKE/mounted ]]\n")
    write_script(fake / "bin" / "sudo", LOG)
    write_script(fake / "bin" / "gcsfuse", LOG + 'touch "$FAKE/mounted"\n')
    for _ in range(2):
        assert tpu_worker(repo, fake, "mount", "some-bucket").returncode == 0
    (mount,) = calls(fake, "gcsfuse")
    assert mount[-2:] == ["some-bucket", "/mnt/some-bucket"]
    assert flag(mount, "rename-dir-limit")


def test_xpk_command_survives_kubernetes_and_the_shell(repo, fake, tmp_path):
    done = launch(repo, "xpk.sh", *LAUNCHERS["xpk.sh"], *TRAIN)
    assert done.returncode == 0, done.stderr
    (call,) = calls(fake, "xpk")
    assert call[:2] == ["workload", "create"] and flag(call, "num-slices") == "2"
    command = flag(call, "command").replace("$$", "$")  # what Kubernetes does
    write_script(fake / "bin" / "pip", LOG)
    shutil.copy(fake / "bin" / "python3", fake / "bin" / "python")
    subprocess.run(["bash", "-c", f"({command}) & wait"], cwd=tmp_path, check=True)
    assert trainings(fake) == [[*TRAIN[:2], "--distributed", NASTY, "--other=1"]]
    assert calls(fake, "pip") and not list(tmp_path.rglob("pwned"))
    assert not Path(flag(call, "script-dir")).exists()
    assert launch(repo, "xpk.sh", "--name=job", "--cluster=c", "--delete").returncode == 0
    assert calls(fake, "xpk")[1] == ["workload", "delete", "--workload=job", "--cluster=c"]


def test_slurm_submits_itself(repo, fake):
    done = launch(repo, "slurm.sbatch", *LAUNCHERS["slurm.sbatch"], *TRAIN)
    assert done.returncode == 0, done.stderr
    (call,) = calls(fake, "sbatch")
    assert {"--nodes=2", "--gpus-per-node=4", "--ntasks-per-node=4"} <= set(call)
    # In the job SLURM gives the script what follows it.
    script = call.index("launch/slurm.sbatch")
    assert {"--partition=gpu", f"--chdir={repo}"} <= set(call[:script])
    done = launch(repo, "slurm.sbatch", *call[script + 1 :], "--dry-run", SLURM_JOB_ID="1")
    assert done.returncode == 0, done.stderr


def slurm_job(repo, tmp_path, *arguments, **environment):
    environment = {"SLURM_JOB_ID": "12", "SLURM_CPUS_PER_TASK": "3", **environment}
    train = ["--config=configs/base.py", f"--workdir={tmp_path}/w"]
    return launch(repo, "slurm.sbatch", *train, *arguments, **environment)


@pytest.mark.parametrize(
    "train, status, times, requeued",
    [
        ("exit 0", 0, 1, False),
        ("exit 2", 2, 1, False),
        ("exit 1", 1, 3, False),
        ("exit 143", 143, 1, False),
        ('mkdir -p "$W/checkpoints/20"; exit 143', 143, 1, True),
        # Not yet complete.
        ('mkdir -p "$W/checkpoints/20.orbax-checkpoint-tmp"; exit 143', 143, 1, False),
    ],
)
def test_slurm_job(repo, fake, tmp_path, train, status, times, requeued):
    (fake / "train").write_text(f"W={tmp_path}/w; {train}")
    done = slurm_job(repo, tmp_path, "--max-restarts=2", NASTY)
    assert done.returncode == status, done.stderr
    command = ["--config=configs/base.py", f"--workdir={tmp_path}/w", "--distributed", NASTY]
    assert trainings(fake) == [command] * times
    assert "--cpus-per-task=3" in calls(fake, "srun")[0]
    assert calls(fake, "scontrol") == ([["requeue", "12"]] if requeued else [])


def test_slurm_job_refuses_what_would_be_ignored(repo, tmp_path, fake):
    done = slurm_job(repo, tmp_path, "--nodes=2")
    assert done.returncode == 2 and "unknown argument --nodes=2" in done.stderr
    shape = {"SLURM_GPUS_PER_NODE": "h100:8", "SLURM_NTASKS_PER_NODE": "1"}
    done = slurm_job(repo, tmp_path, **shape)
    assert done.returncode == 2 and "must be equal" in done.stderr
    done = slurm_job(repo / "configs", tmp_path)
    assert done.returncode != 0 and not trainings(fake)


def run_skypilot(repo, rank, **environment):
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    assert task["num_nodes"] == 2 and task["envs"]["BUCKET"] is None
    variables = {key: str(value) for key, value in task["envs"].items() if value is not None}
    variables |= {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    variables |= {"SKYPILOT_NODE_RANK": str(rank), **environment}
    for block in ("setup", "run"):
        text = task[block].replace("with_restarts 180", "with_restarts 0")
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=repo,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
    return done


def test_skypilot_runs_one_process_per_node(repo, fake, tmp_path):
    assert run_skypilot(repo, 0).returncode == 0
    assert run_skypilot(repo, 1, TRAIN_FLAGS=shlex.join([NASTY, "--b=2"])).returncode == 0
    common = ["--config=configs/base.py", "--workdir=/bucket/runs/base"]
    common += ["--coordinator=10.0.0.1:8476", "--processes=2"]
    assert trainings(fake) == [[*common, "--process=0"], [*common, "--process=1", NASTY, "--b=2"]]
    assert not list(tmp_path.rglob("pwned"))


def test_skypilot_bounds_restarts(repo, fake):
    (fake / "train").write_text("exit 1")
    done = run_skypilot(repo, 0, MAX_RESTARTS="1")
    assert done.returncode == 1 and len(trainings(fake)) == 2
    assert run_skypilot(repo, 0, WORKDIR="gs://x").returncode == 2


def left_over(folder):
    """Processes that have something of the folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in text:
            found.append(text)
    return found


def pod_local(repo, *arguments):
    return launch(repo, "pod_local.sh", "--workdir=runs/pod", *arguments)


def test_pod_local_runs_processes_that_know_each_other(repo, fake):
    (fake / "train").write_text('echo "${@: -1}: $XLA_FLAGS $JAX_PLATFORMS"; echo "$@" >&2')
    done = pod_local(repo, "--processes=3", "--devices-per-process=2", "--config=c.py:tiny")
    assert done.returncode == 0, done.stderr
    runs = sorted(trainings(fake))
    coordinators = {flag(run, "coordinator") for run in runs}
    assert len(coordinators) == 1
    common = ["--config=c.py:tiny", "--workdir=runs/pod", f"--coordinator={coordinators.pop()}"]
    assert runs == [[*common, "--processes=3", f"--process={i}"] for i in range(3)]
    for i in range(3):
        text = (repo / f"runs/pod/logs/process_{i}.log").read_text()
        assert text.startswith(f"--process={i}: --xla_force_host_platform_device_count=2 cpu\n")
    assert "--process=0: " in done.stdout and "--process=1: " not in done.stdout


def test_pod_local_shows_why_the_first_failed_and_kills_the_rest(repo, fake, tmp_path):
    (fake / "train").write_text(
        f'case "$*" in *process=1*) echo broken; exit 3 ;; *) sleep 0.5; trap "" TERM; '
        f"(sleep 77 {tmp_path}; sleep 77 {tmp_path}) ;; esac"
    )
    (fake / "bin" / "sleep").write_text('#!/bin/bash\nexec -a "sleep $2" /bin/sleep "$1"\n')
    (fake / "bin" / "sleep").chmod(0o755)
    done = pod_local(repo, "--grace-seconds=1")
    assert done.returncode == 3
    assert "Process 1 failed first, with status 3" in done.stderr and "broken" in done.stderr
    assert "killed" in done.stderr
    assert not left_over(tmp_path)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_pod_local_forwards_signals(repo, fake, tmp_path, number, status):
    # Python, for bash cannot trap SIGINT when it starts with it ignored.
    waiter = tmp_path / "waiter.py"
    waiter.write_text(
        "import signal, sys, time\n"
        "for n in (2, 15): signal.signal(n, lambda n, _: sys.exit(128 + n))\n"
        "print('ready', flush=True); time.sleep(30)\n"
    )
    (fake / "train").write_text(f"exec {sys.executable} {waiter}")
    command = ["bash", "launch/pod_local.sh", "--workdir=runs/pod"]
    pod = subprocess.Popen(
        command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    second = repo / "runs/pod/logs/process_1.log"
    wait_for("ready", pod)
    for _ in range(100):
        if second.exists() and "ready" in second.read_text():
            break
        time.sleep(0.05)
    pod.send_signal(number)
    _, errors = pod.communicate(timeout=10)
    assert pod.returncode == status and "goes on from the latest checkpoint" in errors
    assert not left_over(tmp_path)
