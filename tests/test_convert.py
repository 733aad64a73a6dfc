import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from m2dit_jax import convert
from tests.weights.tiny_models import BFLOAT16, files_of, tiny_model, tiny_network

pytestmark = pytest.mark.e2e


def command(*flags):
    return [sys.executable, "-m", "m2dit_jax.convert", *map(str, flags)]


def run(*flags):
    return subprocess.run(command(*flags), capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_command_from_end_to_end(tmp_path):
    source = tiny_model(tmp_path / "source", BFLOAT16)
    there = run(f"--source={source}", f"--output={tmp_path}/orbax")
    assert there.returncode == 0, there.stderr
    lines = there.stdout.splitlines()
    assert lines[0] == "transformer: 88 tensors of PyTorch, 40 arrays here, 27.2 kB, bfloat16"
    assert lines[1].startswith("text_encoder: 21 tensors of PyTorch, 21 arrays here,")
    assert lines[2] == f"vae: not in {source}, left out"
    assert re.match(rf"{tmp_path}/orbax: orbax form, [\d.]+ kB of weights, ", lines[3])
    assert len(there.stderr.splitlines()) <= 4  # progress, and nothing that jax or orbax says

    back = run(f"--source={tmp_path}/orbax", f"--output={tmp_path}/back", "--to=diffusers")
    assert back.returncode == 0, back.stderr
    assert files_of(tmp_path / "back") == files_of(source)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--to=diffusers"], "is in the diffusers form already"),
        (["--output={}/source"], "exists; needs a folder that does not"),
        (["--source={}/nothing"], "no such folder"),
    ],
)
def test_wrong_input_is_status_2_after_a_message(tmp_path, capsys, flags, message):
    tiny_network(tmp_path / "source", "transformer")
    flags = [flag.format(tmp_path) for flag in flags]
    assert convert.main([f"--source={tmp_path}/source", f"--output={tmp_path}/out", *flags]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_flags_are_not_abbreviated(capsys):
    with pytest.raises(SystemExit) as caught:
        convert.main(["--sour=a", "--output=b"])
    assert caught.value.code == 2


def test_what_an_earlier_run_has_written_is_said(tmp_path, capsys, monkeypatch):
    source = tiny_model(tmp_path / "source")
    flags = [f"--source={source}", f"--output={tmp_path}/out"]

    class Interrupt:
        def __init__(self, total, desc, unit):
            self.left = total - 100

        def update(self, nbytes):
            self.left -= nbytes
            if self.left < 0:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert, "progress_bar", lambda *args: nullcontext(Interrupt(*args)))
        assert convert.main(flags) == 130
    assert f"the same command goes on from {tmp_path}/out.partial" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert convert.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("float32 (written by an earlier run)")
    assert lines[1].endswith("float32")


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_whole_and_the_next_one_completes(tmp_path):
    source = tmp_path / "source"
    tiny_network(source / "transformer", "transformer")
    # 100 MB, so that the kill comes in their middle
    tiny_network(source / "text_encoder", "text_encoder", vocab_size=50_000, d_model=512)
    flags = [f"--source={source}", f"--output={tmp_path}/out"]
    process = subprocess.Popen(
        command(*flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    finished = tmp_path / "out.partial/model/transformer/config.json"
    deadline = time.monotonic() + 60
    while not finished.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    again = run(*flags)
    assert again.returncode == 0, again.stderr
    assert "(written by an earlier run)" in again.stdout.splitlines()[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
