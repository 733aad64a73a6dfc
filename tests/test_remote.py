"""Commands from bucket to bucket, at real servers on this machine, as subprocesses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.buckets import BUCKET, SERVERS
from tests.faults import run_digest, story_digest

pytestmark = pytest.mark.slow  # JAX is started in each command

ROOT = Path(__file__).parents[1]
STORY = ["--prompt=a red cross moves left on gray", "--prompt=it moves up on navy"]


@pytest.fixture(scope="module", params=SERVERS)
def scheme(request, tmp_path_factory):
    with SERVERS[request.param]() as environment:
        environment["M2DIT_PUSH_SECONDS"] = "0.5"
        yield request.param, environment


def start(environment, machine: Path, command: str, *flags: str) -> subprocess.Popen:
    """A command on a machine, which is its folder of local copies."""
    return subprocess.Popen(
        [sys.executable, "-m", f"m2dit_jax.{command}", *flags],
        cwd=ROOT,
        env={**os.environ, **environment, "M2DIT_REMOTE_CACHE": str(machine)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(environment, machine: Path, command: str, *flags: str) -> str:
    process = start(environment, machine, command, *flags)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return printed


def test_a_training_killed_goes_on_on_another_machine_to_the_same_end(scheme, tmp_path, tiny_flags):
    name, environment = scheme
    flags = [*tiny_flags, "--config.train.steps=60", "--config.train.checkpoint_every=4"]
    address = f"{name}://{BUCKET}/runs/tiny"
    run(environment, tmp_path, "train", *flags, f"--workdir={tmp_path}/local")
    process = start(environment, tmp_path / "one", "train", *flags, f"--workdir={address}")
    assert process.stdout is not None
    for line in process.stdout:
        if "step  8/60" in line:
            break
    # Until a checkpoint lies in the bucket.
    time.sleep(1.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    printed = run(environment, tmp_path / "two", "train", *flags, f"--workdir={address}")
    assert f"{address} is worked on as" in printed
    (workdir,) = (tmp_path / "two").glob("*/tiny")
    assert run_digest(workdir, 60) == run_digest(tmp_path / "local", 60)

    # A story of the run in the bucket, into the bucket; and again, where nothing is left to make.
    output = f"{name}://{BUCKET}/stories/one"
    sample = ["sample", f"--checkpoint={address}", *STORY, f"--output={output}"]
    run(environment, tmp_path / "three", *sample)
    run(
        environment,
        tmp_path,
        "sample",
        f"--checkpoint={workdir}",
        *STORY,
        f"--output={tmp_path}/out",
    )
    printed = run(environment, tmp_path / "four", *sample)
    (story,) = (tmp_path / "four").glob("*/one")
    assert story_digest(story) == story_digest(tmp_path / "out")
    assert "kept" in printed, printed
