"""Every command and every line of Python in README.md is run, as it stands there."""

import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from m2dit_jax.__main__ import main
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL = "CogVideoX-5b"  # stands for a tiny folder here
MOST_LINES = 150

pytestmark = pytest.mark.e2e

# How commands are run, by their beginning; further flags make them small. Where a command of ours
# has none, it is run as it is. HELP is for what cannot be run here: a network, a server, hours.
HELP = ("--help",)
AS_IT_IS = ()
HOW: dict[str, tuple[str, ...]] = {
    "bash launch/local.sh": HELP,  # what it does are the three commands below
    "bash launch/test.sh": HELP,
    "pip install": ("--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"),
    "mkdocs serve": HELP,
    "hf download": HELP,
    "m2dit train": tuple(f"--config.{name}={value}" for name, value in TINY.items()),
    f"m2dit sample --checkpoint={MODEL}": ("--steps=1", "--frames=5", "--height=32", "--width=48"),
    "m2dit sample": AS_IT_IS,
    "m2dit evaluate": ("--stories=2",),
    "m2dit app": HELP,
    "m2dit convert": AS_IT_IS,
}
NEEDS = {"pip": "hatchling", "mkdocs": "mkdocs"}


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands():
    lines = (line for block in blocks("bash") for line in block.splitlines())
    return [line.partition("    #")[0].strip() for line in lines if line.strip()]


def flags_for(command):
    """The further flags of the longest beginning in HOW."""
    known = [beginning for beginning in HOW if command.startswith(beginning)]
    assert known, f"tests/test_readme.py does not know how to run: {command}"
    return HOW[max(known, key=len)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, golden):
    """A folder with the run that README's training makes, much smaller."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        shutil.copytree(golden / "pipe_5b", MODEL)
        (training,) = [command for command in commands() if command.startswith("m2dit train")]
        assert main([*shlex.split(training)[1:], *flags_for(training)]) == 0
        assert Path("runs/base/checkpoints").is_dir()
        yield Path.cwd()


def test_it_is_short():
    assert len(README.splitlines()) <= MOST_LINES


def test_every_block_has_a_kind_that_is_run():
    kinds = re.findall(r"^```(.*)$", README, re.MULTILINE)[::2]
    assert set(kinds) == {"bash", "python"}


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("m2dit")])
def test_commands_of_ours_work(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = [*shlex.split(command)[1:], *flags_for(command)]
    try:
        status = main(arguments)
    except SystemExit as ended:  # argparse after --help
        status = ended.code
    assert status == 0


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith("m2dit")])
def test_commands_of_others_work(command):
    program, *arguments = [*shlex.split(command), *flags_for(command)]
    if program in NEEDS and find_spec(NEEDS[program]) is None:
        pytest.skip(f"optional extra: {NEEDS[program]}")
    # The environment need not be on PATH.
    path = shutil.which(program, path=Path(sys.executable).parent) or program
    start = [sys.executable, "-m", "pip"] if program == "pip" else [path]
    done = subprocess.run(
        [*start, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    if program == "hf":
        assert "--local-dir" in done.stdout


def test_the_lines_of_python_work(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (code,) = blocks("python")
    names = {}
    exec(code, names)
    assert len(names["story"].frames) == 2 and len(names["longer"].frames) == 3
    assert Path("out/python/index.html").exists()
