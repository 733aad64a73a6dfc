"""Adapters of Wan, by diffusers' names and by those of Wan's own release."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from m2dit_jax.models.wan.family import WAN
from m2dit_jax.weights.lora_files import LoraChoice, read_lora
from m2dit_jax.weights.networks import torch_parts
from tests.weights.test_lora_files import same

CONFIG = json.loads(
    (Path(__file__).parents[1] / "golden_wan/pipe_wan21/transformer/config.json").read_text()
)
PARTS = torch_parts(WAN.transformer, CONFIG, WAN.transformer.abstract(CONFIG))
# diffusers' name, and that of the modules in Wan's repository
NAMES = {
    "blocks.1.attn1.to_q": "blocks.1.self_attn.q",
    "blocks.1.attn1.to_out.0": "blocks.1.self_attn.o",
    "blocks.0.attn2.to_k": "blocks.0.cross_attn.k",
    "blocks.0.attn2.to_v": "blocks.0.cross_attn.v",
    "blocks.0.ffn.net.0.proj": "blocks.0.ffn.0",
    "blocks.1.ffn.net.2": "blocks.1.ffn.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
}


def pairs():
    rng = np.random.default_rng(0)
    for name in NAMES:
        outputs, inputs = PARTS[f"{name}.weight"].shape
        yield name, rng.normal(size=(2, inputs)), rng.normal(size=(outputs, 2))


def file_of(path, name_of, ends=("lora_A", "lora_B"), alpha=None):
    tensors = {}
    for name, a, b in pairs():
        tensors[f"{name_of(name)}.{ends[0]}.weight"] = a.astype(np.float32)
        tensors[f"{name_of(name)}.{ends[1]}.weight"] = b.astype(np.float32)
        if alpha is not None:
            tensors[f"{name_of(name)}.alpha"] = np.array(alpha, np.float32)
    save_file(tensors, path)
    return LoraChoice(path)


@pytest.fixture
def expected(tmp_path):
    return read_lora(file_of(tmp_path / "d.safetensors", lambda name: f"transformer.{name}"), PARTS)


def test_the_names_of_wans_own_release_are_read(expected, tmp_path):
    choice = file_of(tmp_path / "w.safetensors", lambda name: f"diffusion_model.{NAMES[name]}")
    same(read_lora(choice, PARTS), expected)
    a = next(a for name, a, _ in pairs() if name == "blocks.0.attn2.to_k")
    np.testing.assert_allclose(
        read_lora(choice, PARTS)["blocks"]["cross_attention"]["to_k"]["lora"]["a"][0],
        a.T,
        rtol=1e-6,
    )


def test_kohyas_form_of_them_is_read_with_its_alpha(expected, tmp_path):
    choice = file_of(
        tmp_path / "k.safetensors",
        lambda name: f"lora_unet_{NAMES[name].replace('.', '_')}",
        ("lora_down", "lora_up"),
        alpha=2,  # the rank: a scale of 1
    )
    same(read_lora(choice, PARTS), expected)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("diffusion_model.blocks.0.self_attn.q.diff_b", "whole differences are not added"),
        ("diffusion_model.blocks.0.norm3.diff", "whole differences are not added"),
        ("diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight", "other tensors"),
        ("transformer_2.blocks.0.attn1.to_q.lora_A.weight", "other tensors"),
        ("diffusion_model.blocks.7.self_attn.q.lora_A.weight", "other tensors"),
    ],
)
def test_other_tensors_are_refused_by_name(tmp_path, name, reason):
    tensors = {
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight": np.zeros((2, 64), np.float32),
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight": np.zeros((64, 2), np.float32),
        name: np.zeros(64, np.float32),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"{name}.*") as error:
        read_lora(LoraChoice(tmp_path / "x.safetensors"), PARTS)
    assert reason in str(error.value)
