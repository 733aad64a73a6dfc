import importlib
import math
from dataclasses import asdict
from functools import cache
from pathlib import Path

import jax
import pytest

from configs import base, finetune_2b, finetune_5b, pretrain_5b
from m2dit_jax.config.recipe import build_recipe, make_transformer_config
from m2dit_jax.config.schema import Config
from m2dit_jax.models.cogvideox.json_configs import noise_schedule, transformer_config
from m2dit_jax.models.families import DEFAULT
from m2dit_jax.weights.mapping import flatten

FULL_SIZE = {"pretrain_5b": pretrain_5b, "finetune_5b": finetune_5b, "finetune_2b": finetune_2b}

# Name of the parameter: its shape in CogVideoX-5B and -2B, with all layers of the blocks in one.
SHAPES = {
    "patch_embed.kernel": ((64, 3072), (64, 1920)),  # 16 channels x 2 x 2
    "patch_embed.bias": ((3072,), (1920,)),
    "text_proj.kernel": ((4096, 3072), (4096, 1920)),  # T5-XXL's width
    "text_proj.bias": ((3072,), (1920,)),
    "time_embedding.linear_1.kernel": ((3072, 512), (1920, 512)),
    "time_embedding.linear_1.bias": ((512,), (512,)),
    "time_embedding.linear_2.kernel": ((512, 512), (512, 512)),
    "time_embedding.linear_2.bias": ((512,), (512,)),
    # shift, scale and gate of video, then of text
    "blocks.modulation1.linear.kernel": ((42, 512, 18432), (30, 512, 11520)),
    "blocks.modulation1.linear.bias": ((42, 18432), (30, 11520)),
    "blocks.norm1.scale": ((42, 3072), (30, 1920)),
    "blocks.norm1.bias": ((42, 3072), (30, 1920)),
    "blocks.attention.to_q.kernel": ((42, 3072, 3072), (30, 1920, 1920)),
    "blocks.attention.to_q.bias": ((42, 3072), (30, 1920)),
    "blocks.attention.to_k.kernel": ((42, 3072, 3072), (30, 1920, 1920)),
    "blocks.attention.to_k.bias": ((42, 3072), (30, 1920)),
    "blocks.attention.to_v.kernel": ((42, 3072, 3072), (30, 1920, 1920)),
    "blocks.attention.to_v.bias": ((42, 3072), (30, 1920)),
    "blocks.attention.to_out.kernel": ((42, 3072, 3072), (30, 1920, 1920)),
    "blocks.attention.to_out.bias": ((42, 3072), (30, 1920)),
    "blocks.attention.norm_q.scale": ((42, 64), (30, 64)),
    "blocks.attention.norm_q.bias": ((42, 64), (30, 64)),
    "blocks.attention.norm_k.scale": ((42, 64), (30, 64)),
    "blocks.attention.norm_k.bias": ((42, 64), (30, 64)),
    "blocks.modulation2.linear.kernel": ((42, 512, 18432), (30, 512, 11520)),
    "blocks.modulation2.linear.bias": ((42, 18432), (30, 11520)),
    "blocks.norm2.scale": ((42, 3072), (30, 1920)),
    "blocks.norm2.bias": ((42, 3072), (30, 1920)),
    "blocks.mlp.linear_1.kernel": ((42, 3072, 12288), (30, 1920, 7680)),
    "blocks.mlp.linear_1.bias": ((42, 12288), (30, 7680)),
    "blocks.mlp.linear_2.kernel": ((42, 12288, 3072), (30, 7680, 1920)),
    "blocks.mlp.linear_2.bias": ((42, 3072), (30, 1920)),
    "norm_final.scale": ((3072,), (1920,)),
    "norm_final.bias": ((3072,), (1920,)),
    "norm_out.scale": ((3072,), (1920,)),
    "norm_out.bias": ((3072,), (1920,)),
    "modulation_out.kernel": ((512, 6144), (512, 3840)),
    "modulation_out.bias": ((6144,), (3840,)),
    "proj_out.kernel": ((3072, 64), (1920, 64)),
    "proj_out.bias": ((64,), (64,)),
}

# What the released transformer/config.json hold.
COGVIDEOX_5B = {
    "_class_name": "CogVideoXTransformer3DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 64,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 16,
    "max_text_seq_length": 226,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-05,
    "num_attention_heads": 48,
    "num_layers": 42,
    "out_channels": 16,
    "patch_size": 2,
    "sample_frames": 49,
    "sample_height": 60,
    "sample_width": 90,
    "spatial_interpolation_scale": 1.875,
    "temporal_compression_ratio": 4,
    "temporal_interpolation_scale": 1.0,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
    "timestep_activation_fn": "silu",
    "use_rotary_positional_embeddings": True,
}
COGVIDEOX_2B = COGVIDEOX_5B | {
    "num_attention_heads": 30,
    "num_layers": 30,
    "use_rotary_positional_embeddings": False,
}
RELEASED = {"pretrain_5b": COGVIDEOX_5B, "finetune_5b": COGVIDEOX_5B, "finetune_2b": COGVIDEOX_2B}


@cache
def _params(name):
    """The shapes of all parameters; nothing is allocated."""
    recipe = build_recipe(FULL_SIZE[name].get_config())
    return jax.eval_shape(recipe.init_params, jax.random.key(0))


def _by_name(params):
    return {name: leaf.shape for name, leaf in flatten(params["transformer"]).items()}


@pytest.mark.parametrize(("name", "column"), [("pretrain_5b", 0), ("finetune_2b", 1)])
def test_every_parameter_of_the_full_size_models(name, column):
    assert set(_params(name)) == {"transformer"}
    assert _by_name(_params(name)) == {name: shapes[column] for name, shapes in SHAPES.items()}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(_params(name))} == {"float32"}


def test_both_stages_train_the_same_model():
    assert _by_name(_params("finetune_5b")) == _by_name(_params("pretrain_5b"))


def _count(width, layers, head_dim=64, time=512, text=4096, patch=16 * 2 * 2):
    attention = 4 * (width * width + width) + 2 * 2 * head_dim
    mlp = 2 * 4 * width * width + 4 * width + width
    modulation = time * 6 * width + 6 * width
    block = attention + mlp + 2 * modulation + 2 * 2 * width
    embeddings = (patch + 1) * width + (text + 1) * width + (width + 1) * time + (time + 1) * time
    head = 2 * 2 * width + (time + 1) * 2 * width + (width + 1) * patch
    return layers * block + embeddings + head


@pytest.mark.parametrize(
    ("name", "width", "layers", "number"),
    [("pretrain_5b", 3072, 42, 5_570_283_072), ("finetune_2b", 1920, 30, 1_693_783_872)],
)
def test_the_number_of_parameters(name, width, layers, number):
    counted = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_params(name)))
    assert counted == _count(width, layers) == number
    assert f"{number:,} parameters" in (FULL_SIZE[name].__doc__ or "")


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_models_are_those_of_the_released_weights(name):
    ours = asdict(make_transformer_config(Config.from_dict(FULL_SIZE[name].get_config())))
    released = asdict(transformer_config(RELEASED[name]))
    for field in ("mask", "attention", "scan", "remat"):  # nothing that weights depend on
        del ours[field], released[field]
    assert ours == released
    converted = flatten(DEFAULT.transformer.abstract(RELEASED[name]))
    assert _by_name(_params(name)) == {name: leaf.shape for name, leaf in converted.items()}


@pytest.mark.parametrize(("name", "snr_shift"), [("finetune_5b", 1.0), ("finetune_2b", 3.0)])
def test_the_noise_is_that_of_the_released_models(name, snr_shift):
    released = noise_schedule({"snr_shift_scale": snr_shift})
    assert build_recipe(FULL_SIZE[name].get_config()).schedule == released


def test_the_settings_of_the_papers_scripts():
    for name, config in FULL_SIZE.items():
        config = config.get_config()
        given = 0.0 if name == "pretrain_5b" else 0.5
        data, train, sample = config.data, config.train, config.sample
        assert (data.scenes, data.frames, data.height, data.width) == (3, 49, 480, 720)
        assert (data.text_length, data.text_dim, data.channels) == (226, 4096, 16)
        assert (train.optimizer, train.schedule, train.decayed) == ("adamw", "constant", "all")
        assert (train.learning_rate, train.warmup_steps, train.clip_norm) == (1e-5, 100, 0.05)
        assert (train.adam_b2, train.adam_eps, train.weight_decay) == (0.999, 1e-10, 3e-2)
        assert (train.given_scenes, train.given_probability) == ("all_but_last", given)
        assert (train.compute_dtype, train.checkpoint_every) == ("bfloat16", 1000)
        assert (train.loss_weighting, train.min_snr_gamma, train.given_noise) == ("story", 0, 0)
        assert (train.log_every, train.checkpoint_minutes) == (5, 20)
        assert (
            config.model.mask == "symmetric" and config.model.remat == "full" and config.model.scan
        )
        assert (sample.steps, sample.guidance_scale, sample.fps) == (50, 6.0, 8.0)


def test_the_deviations_are_explained():
    for name, config in FULL_SIZE.items():
        assert config.get_config().train.caption_dropout == 0.1, name
    assert "Captions are dropped" in (pretrain_5b.__doc__ or "")


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in Path(base.__file__).parent.glob("*.py"))
)
def test_every_config_can_be_built_and_has_the_fields_of_base(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    build_recipe(config)
    assert config.is_locked
    assert flatten(config.to_dict()).keys() == flatten(base.get_config().to_dict()).keys()
    assert f"--config=configs/{name}.py" in (module.__doc__ or "")
