"""The parity command; that every wrong number is seen is in tests/reference/test_corruption.py."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from m2dit_jax.parity import main
from m2dit_jax.tools.parity.files import COGVIDEOX, golden_files, not_exercised

pytestmark = pytest.mark.e2e

TESTS = Path(__file__).parent
SUBSET, WHOLE = TESTS / "golden", TESTS.parent / "../shared/golden"


@pytest.fixture(autouse=True)
def _precision_as_before():
    """`main` changes it for the whole process."""
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.fixture
def small_set(golden, tmp_path) -> Path:
    """A set of schedules, tokens and rotary tables, which takes a second or two."""
    root = tmp_path / "set"
    for name in ("pipe_5b/scheduler", "pipe_5b/tokenizer", "pipe_2b/scheduler"):
        shutil.copytree(golden / name, root / name)
    for pipe in ("pipe_5b", "pipe_2b"):
        for network in ("transformer", "text_encoder", "vae"):
            (root / pipe / network).mkdir()
            config = f"{pipe}/{network}/config.json"
            shutil.copyfile(golden / config, root / config)
    (root / "transformer").mkdir()
    for name in ("schedulers.npz", "tokenizer_golden.json", "transformer/rope.npz"):
        shutil.copyfile(golden / name, root / name)
    return root


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "m2dit_jax.parity", *flags],
        cwd=TESTS.parent,
        # The compiler's own settings, not those of tests/conftest.py.
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_passes_on_all_golden_files_that_there_are(tmp_path):
    # The subset is part of the whole set (below), so that it need not be run beside it.
    root = WHOLE if WHOLE.is_dir() else SUBSET
    result = run(f"--reference={root}", f"--json={tmp_path / 'cases.json'}")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = result.stdout.splitlines()
    names, _ = golden_files(root)
    cases = json.loads((tmp_path / "cases.json").read_text())
    passed = [row for row in rows if row.startswith("pass ")]
    assert len(passed) == len(cases)
    assert f"{len(cases)} cases of {len(names)} files in " in result.stdout
    assert "all pass" in result.stdout
    for case in cases:
        assert list(case) == ["case", "error", "limit", "passed"]
        assert case["passed"] is True
        assert 0 <= case["error"] <= case["limit"] < 1e-3
        assert any(case["case"].startswith(name) for name in names) or case["case"].endswith(
            ".safetensors"
        )
    assert len({case["case"] for case in cases}) == len(cases)
    for name in names:
        assert any(case["case"].startswith(name) for case in cases), name


def test_the_subset_has_every_kind_of_file():
    names, unknown = golden_files(SUBSET)
    assert not unknown
    assert not not_exercised(SUBSET, names)
    listed = json.loads((SUBSET / "manifest.json").read_text())
    assert set(listed) == {name for name in names if name.endswith(".npz")}


def test_the_subset_is_part_of_the_whole_set():
    if not WHOLE.is_dir():
        pytest.skip("needs ../shared/golden")
    files = [path for path in SUBSET.rglob("*") if path.is_file()]
    whole_manifest = json.loads((WHOLE / "manifest.json").read_text())
    manifest = json.loads((SUBSET / "manifest.json").read_text())
    assert manifest.items() <= whole_manifest.items()
    for path in files:
        name = path.relative_to(SUBSET)
        if name.name not in ("manifest.json", "README.md"):
            assert path.read_bytes() == (WHOLE / name).read_bytes(), name


def test_the_subset_stays_small():
    assert sum(path.stat().st_size for path in SUBSET.rglob("*") if path.is_file()) < 8e6


def test_a_wrong_number_fails_the_command_by_name(small_set, tmp_path, capsys):
    with np.load(small_set / "schedulers.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["5b_velocity"].flat[-1] += 1e-4
    arrays["2b_ddim7_timesteps"][3] -= 1
    np.savez(small_set / "schedulers.npz", **arrays)
    json_file = tmp_path / "cases.json"
    assert main([f"--reference={small_set}", "--only=schedulers", f"--json={json_file}"]) == 1
    output = capsys.readouterr().out
    assert "2 FAILED" in output
    # Among the others, and again at the end.
    last = [row.split()[-1] for row in output.splitlines() if row.startswith("FAIL ")][-2:]
    assert set(last) == {"schedulers.npz:5b_velocity", "schedulers.npz:2b_ddim7_timesteps"}
    assert output.count("FAIL ") == 4
    failed = {c["case"]: c["error"] for c in json.loads(json_file.read_text()) if not c["passed"]}
    assert failed["schedulers.npz:5b_velocity"] == pytest.approx(1e-4, rel=0.05)
    assert failed["schedulers.npz:2b_ddim7_timesteps"] == 1


def test_only_takes_part_of_a_name_or_a_pattern(small_set, capsys):
    assert main([f"--reference={small_set}", "--only=rope"]) == 0
    assert "15 cases of 1 files" in capsys.readouterr().out
    assert main([f"--reference={small_set}", "--only=*schedulers.n?z"]) == 0
    assert "of 1 files" in capsys.readouterr().out
    assert main([f"--reference={small_set}", "--only=r"]) == 0
    assert "of 3 files" in capsys.readouterr().out


def test_without_only_a_kind_that_is_not_there_fails(small_set, tmp_path, capsys):
    json_file = tmp_path / "cases.json"
    assert main([f"--reference={small_set}", f"--json={json_file}"]) == 1
    cases = json.loads(json_file.read_text())
    failed = [case for case in cases if not case["passed"]]
    present = {"rope", "schedulers", "tokenizer"}
    assert {case["case"] for case in failed} == COGVIDEOX.checks.keys() - present | {
        "gradients",
        "optimizer",
    }
    assert all(case["error"] is None for case in failed)
    assert "text encoder  not exercised: no file is like t5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("notes.txt", "a file of no known kind, not exercised"),
        ("vae/other_5b.npz", "a file of no known kind, not exercised"),
        ("pipelines/fixed_5b.json", "not exercised: no npz file of its name"),
        ("training/5b_grads.safetensors", "not exercised: no npz file of its name"),
        ("training/5b_params_after_adamw.safetensors", "not exercised: no npz file of its name"),
        ("pipelines/fixed_5b.npz", "not a readable npz file"),
        ("pipe_5b/vae_sharded/a.safetensors.index.json", "needs model.safetensors"),
    ],
)
def test_a_file_that_is_not_compared_fails(small_set, capsys, name, note):
    (small_set / name).parent.mkdir(exist_ok=True)
    (small_set / name).write_text("no arrays")
    assert main([f"--reference={small_set}"]) == 1
    [row] = {
        row
        for row in capsys.readouterr().out.splitlines()
        if row.startswith("FAIL") and f" {name} " in row
    }
    assert note in row or "needs diffusion_pytorch_model.safetensors" in row


def test_a_set_without_a_known_name_or_folder_is_wrong_input(small_set, tmp_path, capsys):
    assert main([f"--reference={small_set}", "--only=nothing"]) == 2
    error = capsys.readouterr().err
    assert "--only=nothing: no file of " in error
    assert "schedulers.npz, tokenizer_golden.json, transformer/rope.npz" in error
    assert main([f"--reference={tmp_path / 'absent'}"]) == 2
    assert "absent: no such folder" in capsys.readouterr().err


def test_a_set_without_the_model_of_a_file_fails(small_set, capsys):
    shutil.rmtree(small_set / "pipe_5b/scheduler")
    assert main([f"--reference={small_set}", "--only=schedulers"]) == 1
    assert "scheduler_config.json: no such file" in capsys.readouterr().out


def test_errors_without_a_number_are_null_in_json(small_set, tmp_path):
    # The JSON standard has no NaN.
    with np.load(small_set / "schedulers.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["5b_velocity"].flat[0] = math.nan
    np.savez(small_set / "schedulers.npz", **arrays)
    json_file = tmp_path / "cases.json"
    assert main([f"--reference={small_set}", "--only=schedulers", f"--json={json_file}"]) == 1
    [case] = [case for case in json.loads(json_file.read_text()) if not case["passed"]]
    assert case == {
        "case": "schedulers.npz:5b_velocity",
        "error": None,
        "limit": 2e-6,
        "passed": False,
    }
