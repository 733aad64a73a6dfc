"""Folders of the Wan family, converted."""

import json
import shutil
from pathlib import Path

import pytest

from m2dit_jax.weights.conversion import execute, make_plan
from m2dit_jax.weights.lora_files import LoraChoice
from m2dit_jax.weights.networks import ORBAX
from tests.two_transformers import BOUNDARY, two_transformers
from tests.weights.tiny_models import files_of, tiny_model

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


def test_a_folder_of_two_transformers_goes_there_and_back(tmp_path):
    source = two_transformers(tmp_path / "source")
    for name in ("vae", "text_encoder"):  # they take seconds, and have their own tests
        shutil.rmtree(source / name)
    execute(make_plan(source, tmp_path / "orbax", None, None), lambda nbytes: None)
    index = json.loads((tmp_path / "orbax/model_index.json").read_text())
    assert index["boundary_ratio"] == BOUNDARY
    assert (tmp_path / "orbax/transformer_2" / ORBAX / "_METADATA").is_file()
    execute(make_plan(tmp_path / "orbax", tmp_path / "back", None, None), lambda nbytes: None)
    assert files_of(tmp_path / "back") == files_of(source)


def test_adapters_are_not_added_to_both_of_two_transformers(tmp_path):
    source = two_transformers(tmp_path / "source")
    for name in ("vae", "text_encoder"):
        shutil.rmtree(source / name)
    lora = [LoraChoice(tmp_path / "a.safetensors")]
    with pytest.raises(ValueError, match="needs one transformer that --lora could be added to"):
        make_plan(source, tmp_path / "with_lora", None, None, lora)


def test_another_family_has_one_transformer(tmp_path):
    source = tiny_model(tmp_path / "source", kinds=("transformer",))
    shutil.copytree(source / "transformer", source / "transformer_2")
    with pytest.raises(ValueError, match="transformer_2: models of the family cogvideox have one"):
        make_plan(source, tmp_path / "orbax", None, None)
