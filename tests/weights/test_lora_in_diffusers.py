"""LoRA files go to diffusers' CogVideoX pipeline and PEFT and come back, and do the same there."""

from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from m2dit_jax.weights.lora_files import NAMES, LoraChoice, read_lora, write_lora
from tests.weights.test_lora_files import PARTS, TO_Q, same, some_adapters
from tests.weights.tiny_models import CONFIGS, tiny_model

torch = pytest.importorskip("torch", reason="optional extra: torch")
diffusers = pytest.importorskip("diffusers", reason="optional extra: diffusers")
peft = pytest.importorskip("peft", reason="optional extra: peft")

FILE = NAMES[0]


@pytest.fixture
def pipeline(tmp_path):
    """diffusers' pipeline with a tiny transformer, and nothing else."""
    folder = tiny_model(tmp_path / "model", kinds=CONFIGS) / "transformer"
    transformer = diffusers.CogVideoXTransformer3DModel.from_pretrained(folder)
    return diffusers.CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=None
    )


def test_diffusers_loads_what_is_written_here(pipeline, tmp_path):
    """What it then adds to a layer is what is added here."""
    adapters = some_adapters()
    (tmp_path / "lora").mkdir()
    write_lora(tmp_path / "lora" / FILE, adapters, 0.5, PARTS)
    layer = pipeline.transformer.get_submodule(TO_Q)
    before = layer.weight.detach().clone()
    pipeline.load_lora_weights(tmp_path / "lora", adapter_name="ours")
    assert pipeline.get_active_adapters() == ["ours"]
    pipeline.fuse_lora()
    adapted = pipeline.transformer.get_submodule(TO_Q)
    added = (getattr(adapted, "base_layer", adapted).weight - before).detach().numpy()
    flat: dict[Any, Any] = flatten_dict(adapters)
    a, b = (flat[("blocks", "attention", "to_q", "lora", name)][1] for name in ("a", "b"))
    np.testing.assert_allclose(added, 0.5 * (a @ b).T, atol=1e-5)


def test_what_diffusers_writes_is_read_with_its_alpha(pipeline, tmp_path):
    config = peft.LoraConfig(
        r=2,
        lora_alpha=1,
        target_modules=["to_q", "to_out.0", "ff.net.0.proj"],
        init_lora_weights=False,
    )
    pipeline.transformer.add_adapter(config)
    layers = peft.get_peft_model_state_dict(pipeline.transformer)
    metadata = {"transformer_lora_adapter_metadata": config.to_dict()}
    diffusers.CogVideoXPipeline.save_lora_weights(tmp_path, layers, **metadata)
    found: dict[Any, Any] = flatten_dict(read_lora(LoraChoice(tmp_path), PARTS))
    layer = pipeline.transformer.get_submodule(TO_Q)
    a, b = (found[("blocks", "attention", "to_q", "lora", name)][1] for name in ("a", "b"))
    delta = layer.get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose((a @ b).T, delta, atol=1e-5)
    assert ("blocks", "mlp", "linear_1", "lora", "a") in found
    assert ("blocks", "attention", "to_out", "lora", "a") in found


def test_a_file_comes_back_from_diffusers_as_it_was(pipeline, tmp_path):
    adapters = some_adapters()
    (tmp_path / "there").mkdir()
    write_lora(tmp_path / "there" / FILE, adapters, 1.0, PARTS)
    pipeline.load_lora_weights(tmp_path / "there", adapter_name="ours")
    layers = peft.get_peft_model_state_dict(pipeline.transformer, adapter_name="ours")
    diffusers.CogVideoXPipeline.save_lora_weights(tmp_path / "back", layers)
    same(read_lora(LoraChoice(tmp_path / "back"), PARTS), adapters)
    there, back = (load_file(tmp_path / folder / FILE) for folder in ("there", "back"))
    assert there.keys() == back.keys()
