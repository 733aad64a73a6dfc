from dataclasses import replace

import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.models.cogvideox.t5 import TextEncoderConfig
from m2dit_jax.models.cogvideox.vae import VaeConfig
from m2dit_jax.tools.planning import released, stages
from m2dit_jax.tools.planning.report import STRIPS
from m2dit_jax.tools.planning.topologies import open_topology


@pytest.fixture
def latents_run(tiny_config, monkeypatch):
    """A run on latents of tiny networks beside the transformer."""
    data = tiny_config.data
    data.source, data.channels, data.text_dim = "latents", 4, 8
    data.frames, data.height, data.width = 5, 16, 16
    tiny_config.model.patch_size, tiny_config.model.patch_size_t = 2, 1
    vae = VaeConfig((2, 4), 1, 2, latent_channels=4, temporal_compression_ratio=2)
    monkeypatch.setitem(released.VAES, "cogvideox", (vae,))
    text_encoder = TextEncoderConfig(9, 8, 4, 8, 1, 2)
    monkeypatch.setitem(released.TEXT_ENCODERS, "cogvideox", text_encoder)
    return tiny_config


def test_all_networks_of_a_run_take_their_turn(latents_run):
    machine = open_topology("cpu:1")
    found = stages.other_stages(build_recipe(latents_run), machine, "float32")
    assert [stage.name for stage in found] == ["text encoder", "decoding"]
    assert all(0 < stage.weight_bytes < stage.peak_bytes for stage in found)
    half = stages.other_stages(build_recipe(latents_run), machine, "bfloat16")
    assert [2 * stage.weight_bytes for stage in half] == [stage.weight_bytes for stage in found]
    # Where whole does not fit, `sample` decodes in strips.
    small = replace(machine, chip=replace(machine.chip, memory_bytes=found[1].peak_bytes))
    strips = stages.other_stages(build_recipe(latents_run), small, "float32")[1]
    assert strips.name.startswith("decoding in strips")
    assert strips.peak_bytes == found[1].peak_bytes // STRIPS


def test_networks_of_other_sizes_are_not_guessed(latents_run):
    latents_run.data.text_dim, latents_run.data.channels = 16, 8
    assert stages.other_stages(build_recipe(latents_run), open_topology("cpu:1")) == ()


def test_pixels_have_no_other_network(tiny_config):
    assert stages.other_stages(build_recipe(tiny_config), open_topology("cpu:1")) == ()
