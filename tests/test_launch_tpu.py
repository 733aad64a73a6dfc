"""tpu_pod.sh, tpu_queued.sh and tpu_worker.sh with a gcloud whose TPU VM is a folder."""

import os
import signal
import subprocess

import pytest

from tests import launch_fakes
from tests.launch_fakes import (
    LOG,
    NASTY,
    PYTHON,
    TPU,
    calls,
    flag,
    launch,
    trainings,
    wait_for,
    write_script,
)

# pytest finds fixtures by their names in a test's module.
committed, fake, repo = launch_fakes.committed, launch_fakes.fake, launch_fakes.repo


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
    assert [call for call in calls(fake, "python") if ".[tpu]" in call]


def test_tpu_worker_mounts_the_bucket_once(repo, fake):
    write_script(fake / "bin" / "mountpoint", LOG + "[[ -e $FAKE/mounted ]]\n")
    write_script(fake / "bin" / "sudo", LOG)
    write_script(fake / "bin" / "gcsfuse", LOG + 'touch "$FAKE/mounted"\n')
    for _ in range(2):
        assert tpu_worker(repo, fake, "mount", "some-bucket").returncode == 0
    (mount,) = calls(fake, "gcsfuse")
    assert mount[-2:] == ["some-bucket", "/mnt/some-bucket"]
    assert flag(mount, "rename-dir-limit")
