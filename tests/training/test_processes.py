"""Runs of several real processes, which find each other, fail together and go on together."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from m2dit_jax.utils.digests import read_digests

pytestmark = [pytest.mark.e2e, pytest.mark.multiprocess]

REPOSITORY = Path(__file__).parent.parent.parent
STEPS = 12
FLAGS = (
    f"--config.train.steps={STEPS}",
    "--config.train.batch_size=8",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=4",
    "--config.model.heads=2",
    "--config.mesh.data=2",
    "--config.mesh.fsdp=2",
    "--config.mesh.context=2",
)
# Programs of their own, which take their time to compile: for the runs that need them.
WATCHED = (
    f"--config.train.validate_every={STEPS}",
    "--config.train.validation_stories=3",
    f"--config.train.preview_every={STEPS}",
)
# The training command with slow steps, so that kills and signals hit it whatever the machine.
SLOW = """
import sys, time
from m2dit_jax import train
from m2dit_jax.training import loop
on_mesh = loop.on_mesh
loop.on_mesh = lambda *args: (time.sleep(0.3), on_mesh(*args))[1]
sys.exit(train.main())
"""
# The training command on hosts that do not share the workdir: every process has one of its own.
APART = """
import sys
from m2dit_jax import train
from m2dit_jax.training import workdir
workdir.SHARED_SECONDS = 1.0
number = sys.argv[-1].removeprefix("--process=")
sys.argv = [f"{a}/{number}" if a.startswith("--workdir=") else a for a in sys.argv]
sys.exit(train.main())
"""
DEADLINE = 300  # seconds
DEVICES = 8


class Pod:
    """The processes of one run, on this machine."""

    def __init__(self, workdir, count, flags, slow=False, more=(), program=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        program = SLOW if slow else program
        program = ["-c", program] if program else ["-m", "m2dit_jax.train"]
        others = [f"--coordinator=127.0.0.1:{port}", f"--processes={count}"] if count > 1 else []
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, *program, f"--workdir={workdir}", *flags, *FLAGS, *more),
                    *others,
                    *([f"--process={number}"] if count > 1 else []),
                ],
                cwd=REPOSITORY,
                env=os.environ
                | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(DEVICES // count)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(count)
        ]
        self._timer = threading.Timer(DEADLINE, self.kill)
        self._timer.start()

    def wait_for_step(self, step):
        """Until the first process has printed it."""
        printed = []
        for line in self.processes[0].stdout or ():
            printed.append(line)
            match = re.match(r"step +(\d+)/", line)
            if match and int(match[1]) >= step:
                return
        pytest.fail(f"ended too early: {''.join(printed)}")

    def finish(self):
        """Exit status and output of each process."""
        # All at once, or one that fills its pipe would wait for its reader.
        outputs = {}

        def read(number, process):
            outputs[number] = process.communicate()[0]

        readers = [
            threading.Thread(target=read, args=numbered) for numbered in enumerate(self.processes)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        self._timer.cancel()
        return [(p.returncode, outputs[i]) for i, p in enumerate(self.processes)]

    def kill(self):
        self._timer.cancel()
        for process in self.processes:
            process.kill()


@pytest.fixture(scope="module")
def start(tiny_flags):
    pods = []

    def start(*args, **kwargs):
        pods.append(Pod(*args, flags=tiny_flags, **kwargs))
        return pods[-1]

    yield start
    for pod in pods:
        pod.kill()


def _lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _losses(lines):
    """The lines of training steps, without those of validation."""
    return [line for line in lines if "loss" in line]


def _assert_close(lines, expected):
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-5)


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """The metrics of one process with all devices."""
    workdir = tmp_path_factory.mktemp("alone")
    [(status, output)] = start(workdir, 1, more=WATCHED).finish()
    assert status == 0, output
    lines = _lines(workdir)
    assert len(_losses(lines)) == STEPS
    assert lines[-1]["step"] == STEPS and "validation/generation/loss" in lines[-1]
    assert (workdir / "previews" / f"stories_{STEPS:06}.png").exists()
    return _lines(workdir)


@pytest.fixture(scope="module")
def workdir_of_two(start, tmp_path_factory):
    """Of two processes with half of the devices each, which nobody interrupts."""
    workdir = tmp_path_factory.mktemp("two")
    ends = start(workdir, 2, more=WATCHED).finish()
    assert [status for status, _ in ends] == [0, 0], ends
    assert "processes   2" in ends[0][1] and "step" not in ends[1][1]
    assert (workdir / "previews" / f"stories_{STEPS:06}.png").exists()
    return workdir


@pytest.fixture(scope="module")
def two(workdir_of_two):
    """Their metrics."""
    return _lines(workdir_of_two)


@pytest.mark.slow
def test_two_processes_train_as_one_does(alone, two):
    _assert_close(two, alone)


@pytest.mark.slow
def test_when_one_is_killed_all_stop_and_the_restart_goes_on_exactly(start, two, tmp_path):
    pod = start(tmp_path, 2, slow=True)
    pod.wait_for_step(7)
    pod.processes[1].kill()
    killed = time.monotonic()
    ends = pod.finish()
    assert time.monotonic() - killed < 100
    assert ends[0][0] not in (0, 2) and ends[1][0] == -signal.SIGKILL
    assert "the others will stop" in ends[0][1] or "another task died" in ends[0][1]

    ends = start(tmp_path, 2).finish()
    assert [status for status, _ in ends] == [0, 0], ends
    assert f"4 of {STEPS} done" in ends[0][1]
    assert _lines(tmp_path) == _losses(two)


@pytest.mark.slow
def test_all_go_on_from_the_same_checkpoint_where_one_finds_the_latest_damaged(
    start, workdir_of_two, two, tmp_path
):
    workdir = shutil.copytree(workdir_of_two, tmp_path / "run")
    folder = workdir / "checkpoints" / "12"
    # What the second process reads.
    arrays = [name for name in sorted(read_digests(folder))[1::2] if "/d/" in name]
    path = folder / max(arrays, key=lambda name: (folder / name).stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    ends = start(workdir, 2, more=WATCHED).finish()
    assert [status for status, _ in ends] == [0, 0], ends
    said = ends[0][1]
    assert f"8 of {STEPS} done" in said
    assert "checkpoints/12: is damaged (process 1: state/" in said and "step 8 is used" in said
    assert not any("Traceback" in output for _, output in ends)
    assert os.listdir(workdir / "damaged_checkpoints") == ["12"]
    assert _lines(workdir) == two


@pytest.mark.slow
def test_a_signal_to_one_of_four_saves_one_checkpoint_that_two_go_on_from(start, alone, tmp_path):
    pod = start(tmp_path, 4, slow=True)
    pod.wait_for_step(2)
    pod.processes[2].send_signal(signal.SIGTERM)
    ends = pod.finish()
    assert {status for status, _ in ends} == {143}, ends
    saved = max(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    assert f"Step {saved} is saved" in ends[0][1]
    assert 2 < saved < STEPS

    # And on another mesh.
    mesh = ["--config.mesh.data=1", "--config.mesh.fsdp=8", "--config.mesh.context=1"]
    ends = start(tmp_path, 2, more=mesh).finish()
    assert [status for status, _ in ends] == [0, 0], ends
    assert f"{saved} of {STEPS} done" in ends[0][1]
    _assert_close(_lines(tmp_path), _losses(alone))


@pytest.mark.slow
def test_what_one_process_cannot_do_stops_all_before_anything_is_written(start, tmp_path):
    (tmp_path / "file").touch()
    ends = start(tmp_path / "file", 2).finish()
    assert [status for status, _ in ends] == [2, 2]
    assert "needs a folder to write to" in ends[0][1]


@pytest.mark.slow
def test_hosts_that_do_not_share_the_workdir_stop_before_the_first_step(start, tmp_path):
    ends = start(tmp_path, 2, program=APART).finish()
    assert [status for status, _ in ends] == [2, 2]
    for _, output in ends:
        assert f"{tmp_path}/1: what process 0 wrote there is not to be seen" in output
        assert "--workdir must be a folder that all hosts share" in output
    assert not any((tmp_path / "0").iterdir()), "left behind"
