"""Fakes of what the launchers call, each of which logs how it is called, and a repository."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What launch/env.sh reads to see whether the installation is up to date.
PACKAGE_FILES = ("pyproject.toml", "requirements.txt", "hatch_build.py")

NASTY = '--config.note=it\'s "a" $(touch pwned); `touch pwned` & | * ~ \\ $$ #'
TPU = ["--name=pod", "--zone=us-a", "--accelerator-type=v5p-16"]

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
    for name in PACKAGE_FILES:
        (root / name).touch()
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


def wait_for(text, process):
    assert any(text in line for line in iter(process.stdout.readline, ""))


def flag(arguments, name):
    return next(a.split("=", 1)[1] for a in arguments if a.startswith(f"--{name}="))
