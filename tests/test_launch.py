import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import launch_fakes

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / ".ci" / "run"])

# Logs how it is called. `-m venv` copies it into a new environment; BROKEN_PIP breaks `-m pip`.
STUB = """#!/bin/bash
echo "$*" >>"$STUB_LOG"
case "$1 $2" in
  "-m venv") rm -rf "${@: -1}"; mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
  "-m pip") [[ -z $BROKEN_PIP ]] || { echo "no matching distribution $BROKEN_PIP"; exit 1; } ;;
  "-m ensurepip") exit 1 ;;
  "launch/smoke.py ") echo "smoke: train, 1 s"; exit ${BROKEN_SMOKE:-0} ;;
esac
"""
OLD_PYTHON = """#!/bin/bash
[[ $2 == *print* ]] && { echo -n 3.9.1; exit; }
exit 1
"""


def write_script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A repository with the launch scripts only, where every python3 is the stub."""
    root = tmp_path / "repo"
    shutil.copytree(ROOT / "launch", root / "launch")
    for name in launch_fakes.PACKAGE_FILES:
        (root / name).touch()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        write_script(tmp_path / "bin" / name, STUB)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    monkeypatch.delenv("M2DIT_VENV", raising=False)
    return root


def run(repo, *command):
    """Runs a launch command; returns it and what the stub was asked for with -m meanwhile."""
    log = Path(os.environ["STUB_LOG"])
    log.write_text("")
    done = subprocess.run(["bash", *command], cwd=repo, capture_output=True, text=True)
    return done, [line for line in log.read_text().splitlines() if line.startswith("-m")]


def local(repo, *flags):
    return run(repo, "launch/local.sh", *flags)


def env(repo, extras=""):
    return run(repo, "-euc", f"source launch/env.sh '{extras}'; command -v python")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize(
    "flags, config, workdir, rest",
    [
        ([], "configs/base.py", "runs/base", ""),
        (["--workdir=a b", "--config.seed=1"], "configs/base.py", "a b", " --config.seed=1"),
        (["--x", "--workdir", "w", "--config", "c.py:tiny"], "c.py:tiny", "w", " --x"),
        (["--config=a/c.py"], "a/c.py", "runs/c", ""),
    ],
)
def test_local_runs_the_three_commands(repo, flags, config, workdir, rest):
    env(repo)
    done, calls = local(repo, *flags)
    assert done.returncode == 0, done.stderr
    board = "configs/storyboards/lone_actor.yaml"
    assert calls == [
        f"-m m2dit_jax.train --config={config} --workdir={workdir}{rest}",
        f"-m m2dit_jax.sample --checkpoint={workdir} --storyboard={board}"
        f" --output={workdir}/sample",
        f"-m m2dit_jax.evaluate --checkpoint={workdir} --json={workdir}/report.json"
        f" --sheet={workdir}/evaluation.png",
    ]
    results = ("sample/story.mp4", "sample/contact_sheet.png", "report.json", "evaluation.png")
    for result in results:
        assert f" {workdir}/{result}\n" in done.stdout


def test_local_help_and_bad_usage_do_nothing(repo):
    done, calls = local(repo, "--help")
    assert done.stdout.startswith("Usage:") and done.returncode == 0 and not calls
    done, calls = local(repo, "--workdir")
    assert "needs a value" in done.stderr and done.returncode == 2 and not calls


def test_local_stops_at_the_first_failure(repo):
    env(repo)
    failing = STUB + '[[ "$*" != *m2dit_jax.train* ]]\n'
    write_script(repo / ".venv/bin/python", failing)
    done, calls = local(repo)
    assert done.returncode != 0 and len(calls) == 1 and "story.mp4" not in done.stdout


def test_env_installs_only_what_changed(repo):
    done, calls = env(repo)
    assert done.stdout.splitlines()[-1] == str(repo / ".venv/bin/python")
    assert [call.split()[1] for call in calls] == ["ensurepip", "venv", "pip"][-len(calls) :]
    assert env(repo)[1] == []
    assert calls[-1].endswith(" --editable .")
    assert env(repo, "test,app")[1][0].endswith(" --editable .[test,app]")
    (repo / "requirements.txt").write_text("jax\n")
    assert len(env(repo)[1]) == len(env(repo, "test,app")[1]) == 1
    assert env(repo)[1] == env(repo, "test,app")[1] == []


def test_env_follows_a_moved_checkout(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("M2DIT_VENV", str(tmp_path / "shared"))
    env(repo)
    assert len(env(repo.rename(tmp_path / "moved"))[1]) == 1


def test_env_recovers_from_an_interrupted_venv(repo):
    write_script(repo / ".venv/bin/python", "#!/bin/bash\nexit 1\n")
    done, calls = env(repo)
    assert "incomplete" in done.stdout and done.returncode == 0
    assert calls[0].startswith("-m venv") and calls[1].startswith("-m pip install")


def test_env_leaves_other_folders_alone(repo):
    (repo / ".venv").mkdir()
    (repo / ".venv" / "thesis.txt").touch()
    done, calls = env(repo)
    assert "move it away" in done.stderr and done.returncode != 0 and not calls
    assert (repo / ".venv" / "thesis.txt").exists()


def test_env_reports_and_retries_a_failed_install(repo, monkeypatch):
    monkeypatch.setenv("BROKEN_PIP", "1")
    done, _ = env(repo)
    assert done.returncode != 0
    assert "no matching distribution" in done.stderr and "Could not install" in done.stderr
    monkeypatch.delenv("BROKEN_PIP")
    done, calls = env(repo)
    assert done.returncode == 0 and len(calls) == 1


def test_env_elsewhere(repo, monkeypatch, tmp_path):
    monkeypatch.setenv("M2DIT_VENV", str(tmp_path / "other"))
    done, _ = env(repo)
    assert done.stdout.splitlines()[-1] == str(tmp_path / "other/bin/python")
    assert not (repo / ".venv").exists()


def test_env_says_which_pythons_it_found(repo, tmp_path):
    for python in (tmp_path / "bin").iterdir():
        write_script(python, OLD_PYTHON)
    done, _ = env(repo)
    assert done.returncode != 0 and not (repo / ".venv").exists()
    assert "Need Python 3.11" in done.stderr and "python3.12: 3.9.1" in done.stderr


def test_ci_runs_the_tests_as_a_user_does():
    script = (ROOT / ".ci" / "run").read_text()
    assert "launch/test.sh" in script and os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.fixture
def other_pythons(repo, tmp_path, monkeypatch):
    """Python 3.14 is pyenv's alone, the others are on PATH."""
    write_script(tmp_path / "pyenv/versions/3.14.2/bin/python", STUB)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    for name in ("ruff", "pyright", "lint-imports", "mkdocs"):
        write_script(tmp_path / "bin" / name, "#!/bin/bash\n")


@pytest.mark.usefixtures("other_pythons")
def test_the_smoke_test_is_run_with_every_other_python(repo):
    done, _ = run(repo, "launch/test.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "smoke test with Python, passed: 3.11 3.12 3.13 3.14\n" in done.stdout
    assert all((repo / f".venv-3.{minor}").is_dir() for minor in range(11, 15))


@pytest.mark.usefixtures("other_pythons")
def test_with_arguments_there_is_no_smoke_test(repo):
    done, calls = run(repo, "launch/test.sh", "-m", "not slow and not e2e")
    assert done.returncode == 0 and "smoke" not in done.stdout
    assert calls[-1].endswith("-m not slow and not e2e")


@pytest.mark.usefixtures("other_pythons")
@pytest.mark.parametrize(
    ("broken", "ci", "status", "message"),
    [
        ({"BROKEN_PIP": "connection broken"}, "", 0, "not run: 3.11 (no network to install with)"),
        ({"BROKEN_PIP": "connection broken"}, "true", 1, "FAILED: 3.11 3.12"),
        ({"BROKEN_PIP": "for jax"}, "", 1, "FAILED: 3.11 3.12"),
        ({"BROKEN_SMOKE": "1"}, "", 1, "FAILED: 3.11 3.12"),
    ],
)
def test_a_smoke_test_that_cannot_be(repo, broken, ci, status, message, monkeypatch):
    run(repo, "launch/test.sh", "-k", "masks")  # makes the environment of the tests themselves
    monkeypatch.setenv("CI", ci)
    for name, value in broken.items():
        monkeypatch.setenv(name, value)
    done, _ = run(repo, "launch/test.sh")
    assert done.returncode == status
    assert f"smoke test with Python, {message}" in done.stdout
