"""Commands from bucket to bucket, at real servers on this machine, as subprocesses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2dit_jax.utils.remote.bucket import Bucket
from tests.buckets import BUCKET, SERVERS
from tests.faults import TINY, run_digest, story_digest
from tests.test_encode import COLOURS, write_manifest, write_video

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
    assert "steps/s" not in printed, printed


@pytest.mark.parametrize("scheme", ["s3"], indirect=True)  # what differs is tested above
def test_a_training_begins_from_a_run_in_a_bucket_as_from_a_local_one(scheme, tmp_path, tiny_flags):
    name, environment = scheme
    flags, address = [*tiny_flags, "--config.train.steps=4"], f"{name}://{BUCKET}/runs/first"
    run(environment, tmp_path / "one", "train", *flags, f"--workdir={address}")
    (local,) = (tmp_path / "one").glob("*/first")
    outs = {address: tmp_path / "of_bucket", local: tmp_path / "of_local"}
    for first, out in outs.items():
        begin = [f"--config.train.init_from={first}", f"--workdir={out}"]
        run(environment, tmp_path / "two", "train", *flags, *begin)
    of_bucket, of_local = (run_digest(out, 4) for out in outs.values())
    assert of_bucket == of_local != run_digest(local, 4)


def test_clips_in_a_bucket_become_a_dataset_there_that_a_training_reads(scheme, tmp_path):
    name, environment = scheme
    here = tmp_path / "clips"
    here.mkdir()
    for clip, colour in COLOURS.items():
        write_video(here / f"{clip}.mp4", colour=colour)
    write_manifest(here / "stories.jsonl", {"one": ["red.mp4", "blue.mp4"]})
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        bucket = Bucket(f"{name}://{BUCKET}/data")
        for path in here.iterdir():
            bucket.upload(path, path.name)
    data, encoded = f"{name}://{BUCKET}/data", f"{name}://{BUCKET}/encoded"
    clips = [f"--manifest={data}/stories.jsonl", f"--root={data}", "--config=real_clips"]
    printed = run(environment, tmp_path / "one", "encode", *clips, f"--output={encoded}")
    flags = [*TINY, "--config.train.steps=2", f"--config.data.paths={encoded}"]
    printed += run(
        *(environment, tmp_path / "two", "train", "--config=real_clips", *flags),
        f"--workdir={tmp_path}/run",
    )
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir(), printed
    # Records were fetched one by one, and no shard whole.
    assert list((tmp_path / "two").rglob(".stories-train*.have.part"))
    assert not list((tmp_path / "two").rglob("stories-train*"))


def test_what_cannot_be_is_one_line_before_any_work(scheme, tmp_path):
    name, environment = scheme
    for flags, problem in {
        ("sample", "--checkpoint=s3x://a", "--prompt=a", "--output=o"): "gs:// or s3://",
        ("sample", f"--checkpoint={name}://{BUCKET}/none", "--prompt=a", "--output=o"): "nothing",
        ("train", "--config=base", f"--workdir={name}://no-such-bucket/x"): "no-such-bucket",
    }.items():
        process = start(environment, tmp_path, *flags)
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait() == 2 and problem in printed, printed
        assert "Traceback" not in printed
