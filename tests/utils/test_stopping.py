"""Signals end a command at any moment; each case waits for a line: so the moment is certain."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_HEAD = """
import atexit, gc, hashlib, os, sys, threading, time
from m2dit_jax.cli import run_command
from m2dit_jax.utils import stopping
from m2dit_jax.utils.files import atomic_write
from pathlib import Path

stopping.listen()

def ready():
    print("ready", flush=True)

def busy():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass

class Dying:
    def __del__(self):
        ready()
        busy()

def in_a_destructor():  # where exceptions are ignored
    Dying()

def in_a_gc_callback():  # as JAX has one
    gc.callbacks.append(lambda phase, info: (ready(), busy()))
    gc.collect()

def in_a_long_call():  # that is not Python's
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

def beside_a_thread_that_stays():
    threading.Thread(target=busy).start()
    ready()
    busy()

def catching_everything():
    ready()
    while True:
        try:
            busy()
        except BaseException:
            pass

def writing():
    with atomic_write(Path(sys.argv[1]) / "file") as part:
        part.touch()
        ready()
        busy()

def with_a_stop_that_hangs():
    with stopping.on_stop(busy):
        ready()
        busy()
"""
_MOMENTS = (
    "in_a_destructor",
    "in_a_gc_callback",
    "in_a_long_call",
    "beside_a_thread_that_stays",
    "catching_everything",
    "writing",
    "with_a_stop_that_hangs",
)


def start(code, *arguments, **options) -> Any:
    return subprocess.Popen(
        [sys.executable, "-c", _HEAD + code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("moment", _MOMENTS)
def test_the_first_signal_ends_it_in_seconds(moment, tmp_path):
    number = signal.SIGTERM if moment == "writing" else signal.SIGINT
    process = start(f"sys.exit(run_command({moment}, 'stopped; goes on'))", tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors == "\nstopped; goes on\n"
    assert time.monotonic() - sent < 10
    assert list(tmp_path.iterdir()) == []


def test_the_main_thread_does_not_go_on_while_things_are_tidied(tmp_path):
    code = """
def work():
    with stopping.on_stop(lambda: (gone.set(), time.sleep(1))):
        ready()
        gone.wait()
        Path(sys.argv[1], "counted").touch()

gone = threading.Event()
run_command(work)
"""
    process = start(code, tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143 and list(tmp_path.iterdir()) == []


def test_a_signal_while_python_ends_does_not_undo_the_work():
    process = start("atexit.register(lambda: (ready(), busy()))\nrun_command(lambda: 0)")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and errors == ""


def test_nothing_is_at_work_after_the_last_moment_at_which_a_signal_is_seen_to():
    code = (
        "last = Dying()\natexit.register(print, 'said late', end='')\n"
        "run_command(lambda: print('done', end=' '))"
    )
    process = start(code)
    printed, errors = process.communicate(timeout=25)
    assert (process.returncode, printed, errors) == (0, "done said late", "")


def test_a_failure_does_not_wait_for_threads_of_libraries():
    code = (
        "def work():\n    threading.Thread(target=busy).start()\n    raise ValueError('seed: -1')\n"
    )
    started = time.monotonic()
    process = start(code + "run_command(work)")
    _, errors = process.communicate(timeout=25)
    assert process.returncode == 2 and errors == "seed: -1\n"
    assert time.monotonic() - started < 25


@pytest.mark.skipif(
    not Path("/dev/full").is_char_device(), reason="optional extra: a system with /dev/full"
)
def test_output_that_cannot_be_written_is_a_line_and_a_status():
    command = [sys.executable, "-c", _HEAD + "run_command(lambda: print('done'))"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    # Unbuffered (PYTHONUNBUFFERED) it is noticed in another place.
    assert done.stderr.startswith("standard output") and done.stderr.count("\n") == 1
    assert done.stderr.endswith(" cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    "command", ["train", "sample", "encode", "convert", "evaluate", "parity", "plan", "app"]
)
def test_a_signal_while_a_command_imports(command):
    number = signal.SIGINT if command in ("train", "convert", "app", "plan") else signal.SIGTERM
    process: Any = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", f"m2dit_jax.{command}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not process.stderr.readline().endswith("| m2dit_jax\n"):  # it has been imported
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "interrupted" in errors and "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_all_is_ready_to_listen(number):
    code = (
        "import os, threading\nfrom m2dit_jax.utils import stopping\n"
        f"threading.Thread = lambda **_: os.kill(os.getpid(), {int(number)})\nstopping.listen()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + number, "")


def test_a_library_call_leaves_the_signals_alone():
    import m2dit_jax.cli  # noqa: F401

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
