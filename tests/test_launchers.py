"""Arguments, dry runs and what is handed to xpk, SLURM and SkyPilot."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import launch_fakes
from tests.launch_fakes import (
    LOG,
    NASTY,
    ROOT,
    TPU,
    calls,
    flag,
    launch,
    trainings,
    write_script,
)

# pytest finds fixtures by their names in a test's module.
committed, fake, repo = launch_fakes.committed, launch_fakes.fake, launch_fakes.repo

SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch" / "slurm.sbatch"])
TRAIN = ["--config=configs/base.py", "--workdir=/mnt/x/runs/a b", NASTY, "--", "--other=1"]
LAUNCHERS = {
    "pod_local.sh": ["--processes=2"],
    "tpu_pod.sh": [*TPU, "--bucket=x", "--project=p", "--network=n"],
    "tpu_queued.sh": [*TPU, "--spot", "--poll-seconds=0"],
    "xpk.sh": ["--name=job", "--cluster=c", "--tpu-type=v6e-16", "--num-slices=2", "--storage=s"],
    "slurm.sbatch": ["--nodes=2", "--gpus-per-node=4", "--partition=gpu"],
}


def words(text):
    """Words of each command that a dry run printed, with one name for all temporary folders."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [shlex.split(re.sub(r"/tmp[^ ]*/tmp\.\w+", "TMP", line)) for line in lines]


def shellcheck():
    beside = Path(sys.executable).with_name("shellcheck")
    return str(beside) if beside.exists() else shutil.which("shellcheck")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    program = shellcheck()
    if program is None:
        pytest.skip("optional extra: shellcheck, of the extra test")
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
def test_a_config_may_be_given_by_its_name(repo, script):
    done = launch(repo, script, *LAUNCHERS[script], "--dry-run", "--config=base", "--workdir=/w")
    assert done.returncode == 0, done.stderr
    assert "--config=base " in done.stdout


@pytest.mark.parametrize("script", LAUNCHERS)
def test_dry_run_keeps_the_training_command_word_for_word(repo, script):
    done = launch(repo, script, *LAUNCHERS[script], "--dry-run", *TRAIN)
    printed = [line for line in done.stdout.splitlines() if "m2dit_jax.train " in line][-1]
    command = shlex.split(printed)
    if "--command=" in printed:  # for a shell elsewhere
        remote = flag(command, "command")
        if script == "xpk.sh":
            assert "$$(touch pwned)" in remote
            remote = remote.replace("$$", "$")  # what Kubernetes does
        command = shlex.split(remote)
    start = command.index("m2dit_jax.train") + 1
    expected = [TRAIN[0], TRAIN[1], NASTY, "--other=1"]
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
        ("tpu_pod.sh", [*TPU, "--config=c.py", "--workdir=az://x/y"], "with gs:// or s3://"),
        ("tpu_pod.sh", [*TPU, "--config=c.py", "--bucket=az://x"], "must be gs://NAME or s3://"),
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


@pytest.mark.parametrize("script", ["tpu_pod.sh", "tpu_queued.sh", "xpk.sh", "slurm.sbatch"])
def test_a_run_from_bucket_to_bucket(repo, fake, script):
    flags = [a for a in LAUNCHERS[script] if not a.startswith("--bucket")]
    data = "--config.data.paths=gs://b/data"
    done = launch(repo, script, *flags, "--dry-run", "--bucket=gs://b", "--config=base", data)
    assert done.returncode == 0, done.stderr
    assert "--workdir=gs://b/runs/base" in done.stdout and data in done.stdout
    assert "mount" not in done.stdout
    if "tpu" in script:
        assert "tpu_worker.sh install gs://b/runs/base" in done.stdout
    else:
        assert re.search(r"(tpu|cuda12),gs", done.stdout)
    assert not (fake / "log").exists()


def test_what_is_not_committed_is_said(repo):
    (repo / "configs" / "base.py").write_text("changed")
    done = launch(repo, "tpu_pod.sh", *TPU, "--dry-run", *TRAIN)
    assert "Warning" in done.stderr


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
    assert run_skypilot(repo, 0, WORKDIR="az://x").returncode == 2
