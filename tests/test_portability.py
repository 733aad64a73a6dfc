"""What only Linux has is needed neither to import the package nor to train or sample with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
# Run before anything else: modules that Windows lacks are not to be imported from this package or
# from filelock, which has another way; functions that Windows lacks are gone for everybody.
# (The standard library and others import fcntl themselves, where they know that they are on Unix.)
WITHOUT_UNIX = """
import builtins, os, signal, sys, warnings

# Windows would read and write text in an encoding of its own.
warnings.filterwarnings("error", category=EncodingWarning, module="m2dit_jax")

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
real_import = builtins.__import__

def import_module(name, globals=None, *args, **kwargs):
    importer = (globals or {}).get("__name__", "")
    if name in MODULES and importer.split(".")[0] in {"m2dit_jax", "configs", "filelock"}:
        raise ModuleNotFoundError(f"No module named {name!r}, in {importer}", name=name)
    return real_import(name, globals, *args, **kwargs)

builtins.__import__ = import_module
for name in ("fork", "forkpty", "killpg", "setsid", "getpgid", "getuid", "geteuid",
             "sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
if hasattr(os, "process_cpu_count"):  # from Python 3.13 on: it knows on import what the system has
    os.process_cpu_count = os.cpu_count
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGCHLD",
             "alarm", "setitimer", "ITIMER_REAL", "pause", "sigwait"):
    delattr(signal, name)
"""


def run_without_unix(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", WITHOUT_UNIX + program, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.e2e
def test_every_module_is_imported():
    done = run_without_unix("""
import importlib, pkgutil
import m2dit_jax

count = 0
for module in pkgutil.walk_packages(m2dit_jax.__path__, "m2dit_jax."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name not in {"gradio", "scenedetect", "torch"}:  # of the optional extras
            raise
    count += 1
try:
    import m2dit_jax.training.workdir
    exec("import fcntl", {"__name__": "m2dit_jax.x"})
except ModuleNotFoundError:
    print(count, "modules")
""")
    assert int(done.stdout.split()[0]) > 50


@pytest.mark.slow
@pytest.mark.e2e
def test_a_model_is_trained_and_makes_a_story(tiny_flags, tmp_path):
    story = tmp_path / "story.yaml"
    prompts = ["a red square moves up on navy", "it moves left on black"]
    story.write_text(yaml.safe_dump({"scenes": [{"prompt": prompt} for prompt in prompts]}))
    flags = [*tiny_flags, "--config.train.steps=2", "--config.train.warmup_steps=0"]
    run_without_unix(
        f"""
from m2dit_jax import sample, train

assert train.main([*sys.argv[1:], "--workdir={tmp_path}/run"]) == 0
assert sample.main([
    "--checkpoint={tmp_path}/run", "--storyboard={story}", "--output={tmp_path}/out",
]) == 0
""",
        *flags,
    )
    assert (tmp_path / "out" / "story.json").is_file()
