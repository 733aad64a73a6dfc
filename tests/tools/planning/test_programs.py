import jax
import pytest

from m2dit_jax.config.recipe import build_recipe, make_transformer_config
from m2dit_jax.config.schema import Config
from m2dit_jax.models.cogvideox.vae import VaeConfig
from m2dit_jax.models.flops import forward_flops
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.wan.vae_config import WanVaeConfig
from m2dit_jax.tools.planning import programs, released
from m2dit_jax.tools.planning.collectives import Collective
from m2dit_jax.tools.planning.planner import _is_activation, make_plan
from m2dit_jax.tools.planning.topologies import open_topology


@pytest.fixture
def latents_config(tiny_config):
    tiny_config.data.source = "latents"
    tiny_config.data.frames, tiny_config.data.height, tiny_config.data.width = 9, 32, 32
    tiny_config.data.channels, tiny_config.data.text_dim = 4, 8
    tiny_config.model.patch_size, tiny_config.model.patch_size_t = 2, 1
    tiny_config.model.attention = "grouped"
    return tiny_config


@pytest.mark.slow
def test_a_training_step_in_parts(latents_config):
    plan = make_plan(build_recipe(latents_config), open_topology("cpu:1"), "train")
    assert plan.fits and plan.figures is not None
    assert plan.parts["ema"] == plan.parts["parameters"]
    # Adam's two moments and its count.
    assert 0 <= plan.parts["optimizer"] - 2 * plan.parts["parameters"] < 100
    assert sum(plan.parts.values()) == plan.peak_bytes
    assert plan.stories == latents_config.train.batch_size
    # The text goes through two layers in vain, and the first layer needs no gradient of its input.
    assert plan.figures.compiled_flops == pytest.approx(plan.required_flops, rel=0.15)
    assert plan.figures.collective_bytes == {} == {k: v for k, v in plan.least_bytes.items() if v}


@pytest.mark.slow
def test_a_step_that_distils_has_a_teacher_and_three_more_forward_passes(latents_config):
    latents_config.distill.update(teacher="runs/another", steps=2, guidance_scale=2.0)
    latents_config.sample.guidance_scale = 1.0
    latents_config.train.compute_dtype = "bfloat16"
    plan = make_plan(build_recipe(latents_config), open_topology("cpu:1"), "train")
    assert plan.parts["teacher"] == plan.parts["parameters"] // 2
    forward = forward_flops(
        make_transformer_config(Config.from_dict(latents_config)), Layout(2, 8, 3 * 2 * 2)
    )
    assert plan.model_flops == 6 * latents_config.train.batch_size * forward.total
    assert plan.figures is not None
    assert plan.figures.compiled_flops == pytest.approx(plan.required_flops, rel=0.15)


def test_a_denoising_step_is_two_forward_passes(latents_config):
    recipe = build_recipe(latents_config)
    program = programs.make_program(recipe, open_topology("cpu:1"), "sample")
    transformer = make_transformer_config(recipe.config)
    forward = forward_flops(transformer, Layout(2, 8, 3 * 2 * 2))
    assert program.model_flops == program.required_flops == 2 * forward.total
    width = transformer.width
    for shape, whole in (((1, 40, width), True), ((1, 20, width), False), ((width, 90), False)):
        collective = Collective("all-gather", 1, 1, 2, 2.0, shape, "bf16", "", "")
        assert _is_activation(collective, program) == whole
    assert (program.stories, program.mesh) == (1, {"data": 1, "fsdp": 1, "context": 1})


@pytest.mark.slow
def test_decoding_counts_every_chunk(latents_config, monkeypatch):
    tiny = VaeConfig((2, 4), 1, 2, latent_channels=4, temporal_compression_ratio=2)
    monkeypatch.setitem(released.VAES, "cogvideox", (tiny,))
    latents_config.data.height = latents_config.data.width = 16
    latents_config.data.frames = 17
    program = programs.make_program(build_recipe(latents_config), open_topology("cpu:1"), "decode")
    # 17 frames are 5 latent ones: the first alone, then two at a time.
    assert program.runs == (1, 2) and program.model_flops > 0 and program.devices == 1


@pytest.mark.slow
def test_pixels_have_no_vae(tiny_config):
    with pytest.raises(ValueError, match="--mode=decode needs config.data.source 'latents'"):
        programs.make_program(build_recipe(tiny_config), open_topology("cpu:1"), "decode")


def test_another_family_has_its_own_networks(latents_config, monkeypatch):
    tiny = WanVaeConfig(4, 4, (1, 2), 1, (True,), latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4)
    monkeypatch.setitem(released.VAES, "wan", (tiny,))
    latents_config.model.update(family="wan", added_positions=False)
    latents_config.diffusion.update(kind="flow", prediction="v")
    latents_config.sample.sampler = "unipc"
    recipe, machine = build_recipe(latents_config), open_topology("cpu:1")
    program = programs.make_program(recipe, machine, "sample", "float32")
    count = sum(
        leaf.size
        for leaf in jax.tree.leaves(
            recipe.family.transformer.shapes(make_transformer_config(recipe.config))[1]
        )
    )
    assert program.parts["parameters"] == 4 * count
    # Of three latent frames the first alone, without a cache.
    assert programs.make_program(recipe, machine, "decode", "float32").runs == (1, 2)
    latents_config.data.channels = 5
    with pytest.raises(ValueError, match="no released VAE of wan has 5 channels"):
        programs.make_program(build_recipe(latents_config), machine, "decode")
