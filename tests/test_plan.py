import json
import subprocess
import sys

import pytest

from m2dit_jax.plan import main


@pytest.mark.slow
def test_a_step_on_eight_simulated_devices(tiny_flags, tmp_path):
    """In a process of its own, as only a fresh one can have eight devices."""
    figures = tmp_path / "plan.json"
    flags = ["--config.mesh.data=1", "--config.mesh.fsdp=4", "--config.mesh.context=2"]
    more = ["--config.model.heads=2", "--config.model.attention=grouped", "--topology=cpu:8"]
    command = [sys.executable, "-m", "m2dit_jax.plan", *tiny_flags, *flags, *more]
    done = subprocess.run([*command, f"--json={figures}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "8 x simulated CPU device, data 1 x fsdp 4 x context 2" in done.stdout
    assert "fits" in done.stdout and "of the least" in done.stdout
    found = json.loads(figures.read_text())
    assert found["fits"] and found["mesh"] == {"data": 1, "fsdp": 4, "context": 2}
    assert found["collective_bytes"]["all-to-all"] >= found["least_collective_bytes"]["all-to-all"]
    assert found["unknown_loops"] == []
    assert found["command"].startswith("m2dit plan ") and str(figures) not in found["command"]
    assert found["versions"]["jax"] and "--topology=cpu:8" in found["command"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v9:2x2"], "unknown kind of device 'v9'"),
        (["--topology=cpu:1", "--search", "--mode=sample"], "--search is for --mode=train"),
        (["--topology=cpu:1", "--config.model.layer=2"], "the nearest is --config.model.layers"),
        (["--topology=cpu:1", "--mode=decode"], "needs config.data.source 'latents'"),
    ],
)
def test_wrong_input_is_named(flags, message, tiny_flags, capsys):
    assert main([*tiny_flags, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_config_that_the_machine_cannot_divide(tiny_flags, capsys):
    assert main([*tiny_flags, "--topology=cpu:1", "--config.mesh.fsdp=3"]) == 2
    assert "config.mesh" in capsys.readouterr().err
