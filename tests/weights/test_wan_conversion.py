"""Folders of the Wan family, converted."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from m2dit_jax.weights.conversion import execute, make_plan
from m2dit_jax.weights.lora_files import LoraChoice
from m2dit_jax.weights.networks import ORBAX
from tests.two_transformers import BOUNDARY, two_transformers, write_adapters
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


def test_adapters_are_added_to_the_transformer_that_is_named(tmp_path):
    source = two_transformers(tmp_path / "source")
    for name in ("vae", "text_encoder"):
        shutil.rmtree(source / name)
    lora = [LoraChoice(write_adapters(tmp_path / "a.safetensors"), expert="low_noise")]
    plan = make_plan(source, tmp_path / "with_lora", None, None, lora)
    execute(plan, lambda nbytes: None)
    stem = "diffusion_pytorch_model.safetensors"
    for name in ("transformer", "transformer_2"):
        there, added = (load_file(folder / name / stem) for folder in (source, plan.output))
        changed = {key for key in there if (there[key] != added[key]).any()}
        layers = {"attn1.to_q", "attn2.to_v", "ffn.net.0.proj"} if name == "transformer_2" else {}
        assert changed == {f"blocks.1.{layer}.weight" for layer in layers}


def test_an_expert_of_a_single_transformer_is_refused(tmp_path):
    lora = [LoraChoice(write_adapters(tmp_path / "a.safetensors"), expert="low_noise")]
    with pytest.raises(ValueError, match="low_noise=.*is for models of two transformers"):
        make_plan(GOLDEN / "pipe_wan21/transformer", tmp_path / "with_lora", None, None, lora)


def test_another_family_has_one_transformer(tmp_path):
    source = tiny_model(tmp_path / "source", kinds=("transformer",))
    shutil.copytree(source / "transformer", source / "transformer_2")
    with pytest.raises(ValueError, match="transformer_2: models of the family cogvideox have one"):
        make_plan(source, tmp_path / "orbax", None, None)
