"""launch/Dockerfile without docker: what it copies, which extras it names, and its commands."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "launch" / "Dockerfile").read_text(encoding="utf-8").splitlines()
TARGETS = ("cpu", "cuda12", "cuda13", "tpu")


def arguments(keyword: str) -> list[str]:
    return [line.removeprefix(f"{keyword} ") for line in LINES if line.startswith(f"{keyword} ")]


def run(command: str, path: Path, **environment: str) -> subprocess.CompletedProcess:
    """A RUN line in a shell whose python is a stub that says how it is called."""
    stub = path / "python"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    environment["PATH"] = f"{path}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
    )


def test_all_lines_are_known_and_what_is_copied_is_there_and_let_through():
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD", "#"}
    assert {line.split()[0] for line in LINES if line} <= known
    ignore = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().splitlines()
    for line in arguments("COPY"):
        for source in shlex.split(line)[:-1]:
            assert (ROOT / source).exists() and f"!{source}" in ignore
    assert ignore[0] == "*"


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_installs_extras_that_there_are(target, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    defaults = dict(line.split("=", 1) for line in arguments("ARG"))
    done = run(arguments("RUN")[0], tmp_path, **{**defaults, "TARGET": target})
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"-m pip install --no-cache-dir \.\[([\w,]+)\]\n", done.stdout)
    assert found, done.stdout
    extras = found[1].split(",")
    assert set(extras) <= set(project["project"]["optional-dependencies"])
    assert (target in extras) == (target != "cpu")


def test_another_target_is_refused(tmp_path):
    done = run(arguments("RUN")[0], tmp_path, TARGET="rocm", EXTRAS="gs")
    assert done.returncode == 2 and "TARGET=rocm: needs cpu, cuda12" in done.stderr


def test_its_commands_run_here():
    entry = shlex.split(arguments("ENTRYPOINT")[0].strip("[]").replace(",", " "))
    for command in (shlex.split(arguments("RUN")[1]), [*entry, "--help"]):
        assert command[0] == "python"
        done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True)
        assert done.returncode == 0 and b"train" in done.stdout
