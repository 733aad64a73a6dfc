import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m2dit_jax.models.attention.dispatch import attention
from m2dit_jax.models.layout import Layout
from m2dit_jax.tools.gpu_check import __main__ as command
from m2dit_jax.tools.gpu_check.parts import PARTS, ROOT, _errors
from m2dit_jax.tools.gpu_check.record import read_rows, write_rows
from m2dit_jax.tools.gpu_check.report import CheckReport, PartResult
from m2dit_jax.tools.gpu_check.sizes import TINY
from m2dit_jax.tools.gpu_check.torch_attention import by_groups, torch_attention, with_mask
from m2dit_jax.utils.chips import CHIPS, find_chip

# Those that start no other process.
INSIDE = ("devices", "attention", "step_5b", "decode", "text", "train_2b", "train_5b")


@pytest.mark.slow
@pytest.mark.parametrize("part", INSIDE)
def test_a_part_gives_figures_at_tiny_sizes(part, tmp_path):
    rows = list(PARTS[part][0](TINY, tmp_path))
    assert all(row["what"] for row in rows)
    assert all(row.get("seconds", 1) > 0 for row in rows)


def test_attention_is_near_float32(tmp_path):
    errors = {
        row["what"]: row["largest_error"]
        for row in PARTS["attention"][0](TINY, tmp_path)
        if "largest_error" in row
    }
    assert len(errors) == 4
    assert max(errors.values()) < 0.03  # bfloat16 has 8 bits


def test_errors_are_relative_to_the_largest_value():
    import jax.numpy as jnp

    right = [jnp.array([1.0, -4.0]), jnp.array([2.0])]
    assert _errors([jnp.array([1.0, -3.0]), jnp.array([2.0])], right) == pytest.approx(0.25)


def test_training_of_all_layers_lies_on_the_line_through_two_depths(tmp_path, monkeypatch):
    from m2dit_jax.tools.gpu_check import parts

    seconds = iter([1.0, 1.5])
    monkeypatch.setattr(
        parts, "_timed", lambda what, *_: iter([{"what": what, "seconds": next(seconds)}])
    )
    rows = list(PARTS["train_5b"][0](TINY, tmp_path))
    layers, (few, more) = TINY.fields["model.layers"], TINY.depths
    assert "EXTRAPOLATED" in rows[-1]["what"]
    assert rows[-1]["seconds"] == pytest.approx(1.0 + 0.5 / (more - few) * (layers - few))


def test_torch_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rows = list(PARTS["torch_attention"][0](TINY, tmp_path))
    assert rows == [{"what": "PyTorch is not installed: nothing to compare with"}]


def test_the_groups_of_torch_give_what_its_dense_mask_gives():
    torch = pytest.importorskip("torch", reason="optional extra: torch")
    sizes = {"scenes": 2, "text": 3, "video": 4}
    inputs = torch.randn(3, 1, 2, 14, 8)
    dense = with_mask(*inputs, **sizes)
    torch.testing.assert_close(by_groups(*inputs, **sizes), dense)
    ours = attention(
        *(np.asarray(x).swapaxes(1, 2) for x in inputs), Layout(**sizes), "symmetric", "dense"
    )
    np.testing.assert_allclose(ours.swapaxes(1, 2), dense, atol=1e-5)
    assert len(list(torch_attention(**sizes, heads=2, head_dim=8, repeats=1))) == 4


def test_rows_that_came_before_a_failure_are_kept(tmp_path):
    def rows():
        yield {"what": "first", "seconds": 1.0}
        raise RuntimeError("second")

    with pytest.raises(RuntimeError, match="second"):
        write_rows(rows(), tmp_path / "part.json")
    assert read_rows(tmp_path / "part.json") == [{"what": "first", "seconds": 1.0}]


def test_the_report_adds_up_a_story_and_marks_what_was_not_done(tmp_path):
    report = CheckReport("gpu_check.sh", "2026-11-26", tiny=False, steps=50)
    for name, seconds in (("step_5b", 2.0), ("decode", 3.0)):
        report.results.append(PartResult(name, "done", 1.0, [{"what": name, "seconds": seconds}]))
    assert report.story() is None
    report.results.append(PartResult("text", "done", 1.0, [{"what": "text", "seconds": 0.5}]))
    report.results.append(PartResult("base", "NOT FINISHED in 9 s", 9.0, log="compiling"))
    story = report.story()
    assert story is not None and story["seconds"] == 50 * 2 + 3 * 3 + 4 * 0.5
    report.write(tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "NOT FINISHED in 9 s" in page and "compiling" in page and "111 s" in page
    assert not json.loads((tmp_path / "report.json").read_text())["passed"]


@pytest.mark.parametrize(
    ("kind", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("cpu", None),
    ],
)
def test_chips_are_known_by_their_devices(kind, chip):
    assert find_chip(kind) == (None if chip is None else CHIPS[chip])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--parts=devices,speed"], "no 'speed'; there are devices,attention"),
        (["--minutes=0"], "--minutes=0.0: must be above 0"),
    ],
)
def test_flags_that_cannot_be(flags, message, tmp_path, capsys):
    assert command.main([*flags, f"--output={tmp_path}"]) == 2
    assert message in capsys.readouterr().err


def blocked(folder: Path, *names: str) -> dict[str, str]:
    """An environment in which these packages cannot be imported."""
    for name in names:
        folder.joinpath(f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    return os.environ | {
        "PYTHONPATH": str(folder),
        "JAX_PLATFORMS": "cpu",
        "PYTHON": sys.executable,
    }


@pytest.mark.slow
@pytest.mark.e2e
def test_the_script_stops_parts_at_their_limit_and_needs_few_packages(tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    env = blocked(away, "av", "tensorflow_datasets", "array_record", "grain", "tensorboardX")
    output = tmp_path / "check"
    done = subprocess.run(
        [
            *("bash", ROOT / "launch/gpu_check.sh", "--tiny", "--minutes=45"),
            *("--parts=devices,text,parity", f"--output={output}"),
        ],
        env=env | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((output / "report.json").read_text())
    assert [part["outcome"] for part in report["results"]] == ["done"] * 3
    assert report["results"][2]["rows"][0]["failed"] == 0

    # However fast the machine is, the part cannot end: it sleeps where it imports the optimizer.
    away.joinpath("optax.py").write_text("import time\n\ntime.sleep(60)")
    stopped = subprocess.run(
        [
            *("bash", ROOT / "launch/gpu_check.sh", "--tiny", "--minutes=0.1"),
            *("--parts=train_2b,devices", f"--output={output}"),
        ],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 1
    report = json.loads((output / "report.json").read_text())
    assert report["results"][0]["outcome"].startswith("NOT FINISHED")
    assert report["waiting"] == ["devices"]
    assert "Not run: devices." in (output / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.e2e
def test_a_training_ends_and_starts_again_within_the_check(tmp_path):
    rows = list(PARTS["start"][0](TINY, tmp_path)) + list(PARTS["base"][0](TINY, tmp_path))
    assert [row["what"].split(" start")[0] for row in rows[:2]] == ["first", "second"]
    assert rows[2]["what"].startswith("base.py, 4 steps") and rows[2]["last_loss"] > 0
