"""Folders and adapters that are written here make the same videos in diffusers' WanPipeline."""

import shutil

import numpy as np
import pytest

from m2dit_jax.models.wan.family import WAN
from m2dit_jax.pipeline.load import load
from m2dit_jax.stories import noise
from m2dit_jax.weights.conversion import execute, make_plan
from m2dit_jax.weights.lora_files import LoraChoice, read_lora, write_lora
from m2dit_jax.weights.networks import read_config, torch_parts
from tests.two_transformers import GOLDEN, two_transformers, write_adapters

torch = pytest.importorskip("torch", reason="optional extra: torch")
diffusers = pytest.importorskip("diffusers", reason="optional extra: diffusers")
pytest.importorskip("transformers", reason="optional extra: transformers")
pytest.importorskip("peft", reason="optional extra: peft")

PROMPT, NEGATIVE = "a red fox walks through snow", "blurry"
FRAMES, HEIGHT, WIDTH = 5, 16, 32
STEPS, SCALE, SCALE_2 = 4, 4.0, 2.0
# As diffusers has latents: batch, channels, frames, rows, columns.
LATENTS = np.random.default_rng(0).normal(size=(1, 4, 2, 2, 4)).astype(np.float32)


@pytest.fixture(scope="module", params=["one transformer", "two transformers"])
def folder(request, tmp_path_factory):
    """A model folder that was converted, and converted back."""
    place = tmp_path_factory.mktemp("wan")
    if request.param == "one transformer":
        shutil.copytree(GOLDEN, place / "source")
    else:
        two_transformers(place / "source")
    for start, end in [("source", "orbax"), ("orbax", "back")]:
        plan = make_plan(place / start, place / end, None, None)
        execute(plan, lambda nbytes: None, max_shard_bytes=100_000)
    return place / "back"


@pytest.fixture
def theirs(folder):
    return diffusers.WanPipeline.from_pretrained(folder)


def made_by(theirs):
    """Latents and frames of diffusers' pipeline."""
    how = {"guidance_scale_2": SCALE_2} if theirs.config.boundary_ratio else {}
    made = [
        theirs(
            PROMPT,
            NEGATIVE,
            height=HEIGHT,
            width=WIDTH,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            latents=torch.tensor(LATENTS),
            output_type=kind,
            **how,
        ).frames[0]
        for kind in ("latent", "np")
    ]
    return np.moveaxis(made[0].numpy(), 0, -1), made[1]


def made_here(folder, monkeypatch, lora=()):
    """The same of ours, from the same noise."""
    pipe = load(folder, lora=lora)
    start = np.moveaxis(LATENTS[0], 0, -1)
    monkeypatch.setattr(noise, "normal", lambda key, shape: start)
    how = {"guidance_scale_2": SCALE_2} if pipe.schedule.boundary else {}
    story = pipe(
        [PROMPT],
        negative_prompt=NEGATIVE,
        frames=FRAMES,
        height=HEIGHT,
        width=WIDTH,
        steps=STEPS,
        guidance_scale=SCALE,
        **how,
    )
    return story.latents(0), story.frames[0]


def same(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1] * 255, atol=0.52)  # rounded to whole numbers


def test_a_folder_that_was_converted_makes_the_same_video(folder, theirs, monkeypatch):
    found = made_by(theirs)
    assert np.ptp(found[1]) > 0.05
    same(made_here(folder, monkeypatch), found)


def test_adapters_that_are_written_here_do_the_same_there(folder, theirs, monkeypatch, tmp_path):
    """Written from those of a file by the names of Wan's own release."""
    directory = folder / "transformer"
    config = read_config(directory)
    parts = torch_parts(WAN.transformer, config, WAN.transformer.abstract(config))
    tree = read_lora(LoraChoice(write_adapters(tmp_path / "released.safetensors")), parts)
    write_lora(tmp_path / "ours.safetensors", tree, 1.0, parts)
    plain = made_by(theirs)
    second = hasattr(theirs, "transformer_2") and theirs.transformer_2 is not None
    expert = "low_noise=" if second else ""
    for name in ("ours.safetensors", "released.safetensors"):
        theirs.load_lora_weights(
            tmp_path,
            weight_name=name,
            adapter_name=name.split(".")[0],
            **({"load_into_transformer_2": True} if second else {}),
        )
        found = made_by(theirs)
        assert np.abs(found[0] - plain[0]).max() > 1e-2
        same(made_here(folder, monkeypatch, [f"{expert}{tmp_path / name}"]), found)
        theirs.unload_lora_weights()
