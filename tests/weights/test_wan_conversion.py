"""Folders of the Wan family, converted."""

import shutil
from pathlib import Path

import pytest

from m2dit_jax.weights.conversion import execute, make_plan
from m2dit_jax.weights.networks import ORBAX
from tests.weights.tiny_models import files_of

GOLDEN = Path(__file__).parent.parent / "golden_wan"


@pytest.mark.parametrize(
    "name",
    ["pipe_wan21/transformer", "pipe_wan21/text_encoder", "pipe_wan21/vae", "pipe_wan22_ti2v/vae"],
)
def test_there_and_back_is_the_same_network_to_the_byte(tmp_path, name):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / name, source)
    execute(make_plan(source, tmp_path / "orbax", None, None), lambda nbytes: None)
    assert (tmp_path / "orbax" / ORBAX / "_METADATA").is_file()
    execute(make_plan(tmp_path / "orbax", tmp_path / "back", None, None), lambda nbytes: None)
    assert files_of(tmp_path / "back") == files_of(source)
