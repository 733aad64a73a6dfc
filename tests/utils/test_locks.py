import errno
import socket
import subprocess
import sys

import pytest

from m2dit_jax.utils.locks import InUse, exclusive

_HOLD = """
import sys
from pathlib import Path
from m2dit_jax.utils.locks import exclusive
{patch}
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
_NO_FLOCK = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOTSUP, "Operation not supported")
fcntl.flock = flock
"""


def hold(path, patch=""):
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", _HOLD.format(patch=patch), str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture(params=["flock", "no flock"])
def patch(request, monkeypatch):
    if request.param == "flock":
        return ""
    fcntl = pytest.importorskip("fcntl", reason="needs POSIX file locks")

    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    return _NO_FLOCK


def test_one_process_holds_it_also_without_flock(tmp_path, patch, capsys):
    path = tmp_path / "lock"
    process = hold(path, patch)
    with pytest.raises(InUse), exclusive(path):
        pass
    process.communicate("")
    with exclusive(path):
        pass
    with exclusive(path):  # it was let go
        pass
    if patch:
        err = capsys.readouterr().err
        assert "has no flock (Operation not supported); the file lock.held marks it" in err


def test_a_killed_process_does_not_hold_it_for_ever(tmp_path, patch):
    process = hold(tmp_path / "lock", patch)
    process.kill()
    process.communicate()
    with exclusive(tmp_path / "lock"):
        pass


def test_what_is_no_matter_of_locks_stays_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError), exclusive(tmp_path / "file" / "lock"):
        pass


def test_the_holder_is_named_while_it_holds(tmp_path):
    path = tmp_path / "lock"
    process = hold(path)
    for _ in range(2):  # whoever is refused does not wipe it out
        with pytest.raises(InUse) as refused, exclusive(path):
            pass
        assert refused.value.holder == f"process {process.pid} on {socket.gethostname()}"
    process.communicate("")
    assert path.read_text() == ""
