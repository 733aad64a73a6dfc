"""The parity command on a set of the Wan family."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from m2dit_jax.parity import main
from m2dit_jax.tools.parity.files import WAN, golden_files, kinds_of, not_exercised

TESTS = Path(__file__).parent
SUBSET, WHOLE = TESTS / "golden_wan", TESTS.parent / "../shared/golden_wan"


@pytest.fixture(autouse=True)
def _precision_as_before():
    """`main` changes it for the whole process."""
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.slow  # the judge of the whole family
@pytest.mark.e2e
def test_the_command_passes_on_the_subset(tmp_path, capsys):
    status = main([f"--reference={SUBSET}", f"--json={tmp_path / 'cases.json'}"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "all pass" in printed
    cases = json.loads((tmp_path / "cases.json").read_text())
    for name in golden_files(SUBSET)[0]:
        assert any(case["case"].startswith(name) for case in cases), name


def test_the_subset_has_every_kind_of_file_and_its_family_is_found():
    assert kinds_of(SUBSET) is WAN
    names, unknown = golden_files(SUBSET)
    assert not unknown
    assert not not_exercised(SUBSET, names)
    listed = json.loads((SUBSET / "manifest.json").read_text())["arrays"]
    assert set(listed) == {name for name in names if name.endswith(".npz")}


def test_the_subset_is_a_small_part_of_the_whole_set():
    files = [path for path in SUBSET.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4e6
    if not WHOLE.is_dir():
        pytest.skip("needs ../shared/golden_wan")
    for path in files:
        name = path.relative_to(SUBSET)
        if name.name not in ("manifest.json", "README.md"):
            assert path.read_bytes() == (WHOLE / name).read_bytes(), name


def test_a_wrong_number_fails_the_command_by_name(tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(SUBSET / "pipe_wan21", root / "pipe_wan21")
    with np.load(SUBSET / "transformer/rope_wan21.npz") as file:
        arrays = dict(file)
    arrays["sin"][0, 3, 0, 2] += 1e-3
    (root / "transformer").mkdir()
    np.savez(root / "transformer/rope_wan21.npz", **arrays)
    assert main([f"--reference={root}", "--only=rope"]) == 1
    assert "FAIL   1.0e-03 <= 1.0e-05  transformer/rope_wan21.npz:sin" in capsys.readouterr().out
