"""`m2dit`, the commands by one name, and what `import m2dit_jax` offers."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import m2dit_jax
from m2dit_jax.__main__ import COMMANDS, main

PACKAGE = Path(m2dit_jax.__file__).parent


def run(code):
    """The output of a fresh interpreter, which has imported nothing yet."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_of_the_package_is_listed(capsys):
    modules = {path.stem for path in PACKAGE.glob("*.py") if "def main(" in path.read_text()}
    assert set(COMMANDS) == modules - {"__main__"}
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    output = capsys.readouterr().out
    assert ended.value.code == 0
    for name, summary in COMMANDS.items():
        assert f"  {name} " in output and summary in output


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"m2dit_jax {m2dit_jax.__version__}\n"


def test_a_command_gets_its_flags_and_its_status_is_returned(monkeypatch):
    calls = []
    for name, status in (("page", 2), ("benchmark_video", 0)):
        module = importlib.import_module(f"m2dit_jax.{name}")
        monkeypatch.setattr(
            module, "main", lambda argv, status=status: calls.append(argv) or status
        )
    assert main(["page", "--help", "out", "--version"]) == 2
    assert main(["benchmark-video"]) == 0
    assert calls == [["--help", "out", "--version"], []]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "--config=base"], "no command 'trian'; the nearest is 'train'"),
        ([], "COMMAND"),
        (["--wrokdir=x"], "COMMAND"),
    ],
)
def test_what_is_no_command_ends_with_status_2(arguments, message, capsys):
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    output, errors = capsys.readouterr()
    assert output == "" and message in errors


def test_help_imports_no_command():
    code = (
        "import contextlib, io, sys, m2dit_jax.__main__ as m2dit\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    m2dit.main(['--help'])\n"
        "print(sorted(name for name in sys.modules if name.startswith('m2dit_jax')))"
    )
    needed = ["m2dit_jax", "m2dit_jax.__main__", "m2dit_jax.utils", "m2dit_jax.utils.stopping"]
    assert run(code) == f"{needed}\n"


@pytest.mark.parametrize(
    "name", ["load", "Pipeline", "Story", "Storyboard", "Scene", "SamplingOptions"]
)
def test_the_public_names_are_there(name):
    assert getattr(m2dit_jax, name).__name__ == name
    assert name in dir(m2dit_jax) and name in m2dit_jax.__all__


def test_another_name_is_refused_with_those_that_there_are():
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'; there are .*Pipeline"):
        m2dit_jax.__getattr__("Pipelin")


def test_nothing_heavy_is_imported_before_a_name_is_used():
    heavy = "{'jax', 'numpy', 'flax', 'absl', 'yaml'} & set(sys.modules)"
    code = f"import sys, m2dit_jax; print({heavy}); m2dit_jax.Storyboard; print('yaml' in {heavy})"
    assert run(code) == "set()\nTrue\n"
