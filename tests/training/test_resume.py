"""The promise of checkpoints, kept by real processes that are really killed."""

import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from m2dit_jax import train
from m2dit_jax.weights.run_folder import find_weights

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parent.parent.parent
STEPS = 48
FLAGS = (
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=6",
    "--config.train.eval_every=24",
    "--config.train.optimizer=muon",
)
# The training command with slower steps, so that kills and signals hit it whatever the machine.
SLOW = """
import sys, time
from m2dit_jax import train
from m2dit_jax.training import loop
on_mesh = loop.on_mesh
loop.on_mesh = lambda *args: (time.sleep(0.04), on_mesh(*args))[1]
sys.exit(train.main())
"""
DEADLINE = 300  # seconds
HALF_CHECKPOINTS = "checkpoints/*.orbax-checkpoint-tmp"


@pytest.fixture(scope="module")
def start(tiny_flags):
    processes, timers = [], []

    def start(workdir, slow=True):
        program = ["-c", SLOW] if slow else ["-m", "m2dit_jax.train"]
        process = subprocess.Popen(
            [sys.executable, *program, f"--workdir={workdir}", *tiny_flags, *FLAGS],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        # Reading its output has no time limit of its own.
        timers.append(threading.Timer(DEADLINE, process.kill))
        timers[-1].start()
        return process

    yield start
    for timer in timers:
        timer.cancel()
    for process in processes:
        process.kill()


@pytest.fixture(scope="module")
def reference(start, tmp_path_factory):
    """A run that nobody interrupts."""
    workdir = tmp_path_factory.mktemp("reference")
    process = start(workdir, slow=False)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    return workdir


@pytest.mark.slow
def test_a_run_that_was_killed_and_stopped_ends_as_if_it_had_not_been(start, reference, tmp_path):
    _kill_while_saving(start, tmp_path)

    process = start(tmp_path)
    _wait_for_step(8, process)
    time.sleep(random.uniform(0, 0.05))
    _kill(process)

    process = start(tmp_path)
    _wait_for_step(28, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 143, output
    step = max(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir())
    assert f"Step {step} is saved in {tmp_path}/checkpoints/{step}" in output
    assert "the same command goes on" in output
    assert 28 < step < STEPS

    process = start(tmp_path, slow=False)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    assert f"{step} of {STEPS} done" in output
    assert not any(tmp_path.glob(HALF_CHECKPOINTS)), "left behind"
    _assert_same_run(tmp_path, reference)


def _kill_while_saving(start, workdir):
    for _ in range(3):
        process = start(workdir)
        _wait_until(lambda: any(workdir.glob(HALF_CHECKPOINTS)), process)
        _kill(process)
        if any(workdir.glob(HALF_CHECKPOINTS)):
            assert not (workdir / "checkpoints" / str(STEPS)).exists()
            return
    pytest.fail("the save was always faster")


def _wait_for_step(step, process):
    """Until this process, not the one before it, has printed that step or a later one."""
    printed = []
    for line in process.stdout:
        printed.append(line)
        match = re.match(r"step +(\d+)/", line)
        if match and int(match[1]) >= step:
            return
    pytest.fail(f"ended too early: {''.join(printed)}")


def _wait_until(condition, process):
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended too early: {process.stdout.read()}")
        time.sleep(0.001)


def _kill(process):
    process.kill()
    process.communicate()


def _assert_same_run(workdir, reference):
    """The same state, bit for bit, the same metrics and the same previews."""
    assert (workdir / "metrics.jsonl").read_text() == (reference / "metrics.jsonl").read_text()
    one, other = (_saved_state(folder) for folder in (workdir, reference))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    for path in (reference / "previews").iterdir():
        assert (workdir / "previews" / path.name).read_bytes() == path.read_bytes()


def _saved_state(workdir):
    folder = workdir / "checkpoints" / str(STEPS) / "state"
    tree = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return ocp.PyTreeCheckpointer().restore(folder, restore_args=as_numpy)


@pytest.mark.slow
def test_a_finished_run_whose_last_checkpoint_has_rotted_goes_on_from_the_one_before(
    tiny_flags, tmp_path, capsys
):
    flags = [*tiny_flags, f"--workdir={tmp_path}"]
    assert train.main(flags) == 0  # 12 steps, with checkpoints of 5, 10 and 12
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    weights = find_weights(tmp_path).load()
    last = tmp_path / "checkpoints/12"
    largest = max(last.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    capsys.readouterr()
    assert train.main(flags) == 0
    output = capsys.readouterr()
    assert f"{last}: is damaged (" in output.err and "); step 10 is used" in output.err
    assert f"moved to {tmp_path}/damaged_checkpoints/12" in output.err
    assert "steps       10 of 12 done" in output.out
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    jax.tree.map(np.testing.assert_array_equal, find_weights(tmp_path).load(), weights)
    assert train.main(flags) == 0
    assert "nothing to do" in capsys.readouterr().out
