"""pod_local.sh with a python that does what the test says."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import launch_fakes
from tests.launch_fakes import flag, launch, trainings, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.multiprocess]

# pytest finds fixtures by their names in a test's module.
committed, fake, repo = launch_fakes.committed, launch_fakes.fake, launch_fakes.repo


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
