"""Disks that are full in the middle of a file, for every command that writes large ones.

A limit on the size of files is what a test may set without being root; the system then refuses
what is written beyond it as it does on a full disk.
"""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import TINY
from tests.test_encode import COLOURS, contents, write_manifest, write_video
from tests.weights.tiny_models import BFLOAT16, files_of, tiny_model

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).parent.parent


def run(command, *flags, limit=None):
    """The finished command; `limit` in bytes is the most that a file may have."""

    def set_limit():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", f"m2dit_jax.{command}", *map(str, flags)],
        cwd=ROOT,
        preexec_fn=set_limit,
        capture_output=True,
        text=True,
        timeout=600,
    )


def assert_one_line_names(done, path):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "Error" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{path}: File too large (disk /"), done.stderr
    assert last.endswith("the same command goes on")


def test_encode_within_a_shard(tmp_path):
    for name, colour in COLOURS.items():
        write_video(tmp_path / f"{name}.mp4", colour=colour)
    write_manifest(tmp_path / "m.jsonl", {"a": [f"{name}.mp4" for name in COLOURS]})
    flags = [f"--manifest={tmp_path}/m.jsonl", "--codec=pixels", "--frames=8"]
    flags += ["--height=32", "--width=32", "--workers=1"]
    shard = tmp_path / "set" / "stories-train.array_record-00000-of-00001"
    assert_one_line_names(run("encode", *flags, f"--output={tmp_path}/set", limit=3000), shard)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["progress"]
    assert run("encode", *flags, f"--output={tmp_path}/set").returncode == 0
    assert run("encode", *flags, f"--output={tmp_path}/whole").returncode == 0
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_convert(tmp_path):
    source = tiny_model(tmp_path / "source", BFLOAT16)
    there, back = tmp_path / "orbax", tmp_path / "back"
    flags = [f"--source={source}", f"--output={there}"]
    done = run("convert", *flags, limit=4000)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{tmp_path}/orbax.partial")
    assert not there.exists()
    assert run("convert", *flags).returncode == 0
    flags = [f"--source={there}", f"--output={back}"]
    done = run("convert", *flags, limit=4000)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not back.exists()
    assert run("convert", *flags).returncode == 0
    assert files_of(back) == files_of(source)


def test_train_while_a_checkpoint_is_written_and_sample_while_scenes_are(tmp_path):
    workdir, story = tmp_path / "run", tmp_path / "story"
    cache = f"--compile_cache={tmp_path}/compiled"
    flags = ["--config=base", *TINY, "--config.train.steps=2", f"--workdir={workdir}"]
    done = run("train", *flags, "--compile_cache=", limit=150_000)
    assert_one_line_names(done, workdir / "checkpoints" / "2")
    assert not (workdir / "checkpoints" / "2").exists()
    done = run("train", *flags, cache)
    assert done.returncode == 0 and "steps       0 of 2 done" in done.stdout, done.stderr

    flags = [f"--checkpoint={workdir}", "--storyboard=lone_actor", f"--output={story}"]
    done = run("sample", *flags, "--compile_cache=", limit=3000)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{story}/scenes/")
    assert not list(story.rglob("*.part")) and not (story / "story.json").exists()
    assert run("sample", *flags, cache).returncode == 0
