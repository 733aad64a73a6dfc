"""`sample` on the folder of a released model; the golden files have tiny ones."""

import gc
import json
import os
import shutil
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from m2dit_jax import convert, sample
from m2dit_jax.pipeline.codecs import DECODERS, VaeCodec
from m2dit_jax.pipeline.load import load
from m2dit_jax.stories import noise
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.tools.parity.functions import reference_draws
from m2dit_jax.tools.parity.golden import read_npz
from m2dit_jax.tools.parity.layout import channels_last, to_scenes
from m2dit_jax.utils.media import read_clip, write_mp4
from m2dit_jax.weights.released import ReleasedModel
from tests.story_building import build_scenes

PROMPTS = ["A striped cat waits.", "It runs.", "It sleeps."]
SMALL = {"frames": 5, "height": 32, "width": 32, "steps": 2}


@pytest.fixture(scope="module")
def model(golden):
    return golden / "pipe_5b"


@pytest.fixture
def run(model, tmp_path, capsys):
    """Runs the command; returns status, story.json (None on error) and stderr."""

    def run(scenes, *flags, checkpoint=model, output=tmp_path / "out", **fields):
        path = tmp_path / "story.yaml"
        path.write_text(yaml.safe_dump({"scenes": scenes, **SMALL, **fields}))
        status = sample.main(
            [f"--checkpoint={checkpoint}", f"--storyboard={path}", f"--output={output}", *flags]
        )
        story = json.loads((output / "story.json").read_text()) if status == 0 else None
        return status, story, capsys.readouterr().err

    return run


def as_scenes(prompts):
    return [{"prompt": prompt} for prompt in prompts]


@pytest.mark.slow
def test_a_converted_folder_makes_the_same_story(run, model, tmp_path):
    _, direct, err = run(as_scenes(PROMPTS))
    assert direct["storyboard"]["sampler"] == "ddim" and direct["storyboard"]["fps"] == 8
    assert "2 of 2 steps" in err and "scene 3, chunk 2/2" in err
    assert convert.main([f"--source={model}", f"--output={tmp_path / 'orbax'}"]) == 0
    _, converted, _ = run(
        as_scenes(PROMPTS), checkpoint=tmp_path / "orbax", output=tmp_path / "again"
    )
    assert converted["frames_sha256"] == direct["frames_sha256"]
    assert read_clip(tmp_path / "out" / "scene_2.mp4", 5, 32, 32).shape == (5, 32, 32, 3)


@pytest.mark.slow
def test_the_ways_of_decoding_agree(model, tmp_path):
    storyboard = Storyboard.from_mapping({"scenes": as_scenes(PROMPTS), **SMALL})
    made = {}
    for decoder in DECODERS:
        pipeline = load(model, decoder=decoder)
        made[decoder] = np.stack(build_scenes(pipeline, storyboard, tmp_path)).astype(int)
    # Strips are exact but for rounding; here the picture is a single tile.
    assert np.abs(made["strips"] - made["whole"]).max() <= 1
    assert np.abs(made["tiles"] - made["whole"]).max() <= 1


def lines_of_loading(model, mesh):
    lines = []
    load(model, mesh=mesh, say=lines.append)
    return lines


@pytest.mark.slow
def test_the_number_of_devices_is_chosen_and_told(model, on_eight_devices):
    _, line = on_eight_devices(lines_of_loading, model, None)  # the first: what is not used
    assert line == "a story on 8 of 8 devices, 1 head and 1/4 of attention's queries on each device"
    _, line = on_eight_devices(lines_of_loading, model, 2)
    assert line == "a story on 2 of 8 devices"


def test_a_mesh_of_devices_that_are_not_there_is_refused(run):
    status, _, err = run(as_scenes(PROMPTS), "--mesh=99")
    assert status == 2 and "a mesh of 99 devices for a story" in err


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_given_clips_come_back_and_shape_the_others(model, tmp_path, sampler):
    pipeline = load(model)
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    write_mp4(tmp_path / "clip.mp4", frames, 8)
    given = [{"prompt": PROMPTS[0]}, {"prompt": PROMPTS[1], "video": "clip.mp4"}]

    def make(scenes, **settings):
        storyboard = Storyboard.from_mapping(
            {"scenes": scenes, "sampler": sampler, **SMALL, **settings}, tmp_path
        )
        return build_scenes(pipeline, storyboard, tmp_path)

    video, noisy = make(given), make(given, noise_given=True)
    np.testing.assert_array_equal(video[1], read_clip(tmp_path / "clip.mp4", 5, 32, 32))
    assert (video[0] != noisy[0]).any()
    assert (video[0] != make(as_scenes(PROMPTS[:2]))[0]).any()


@pytest.mark.slow
def test_the_command_makes_the_video_of_the_reference(golden, model, monkeypatch, tmp_path):
    """From the same noise, but for what is within rounding to whole numbers."""
    pipeline = load(model)
    name = "pipelines/fixed_5b_s5_dpm"
    arguments = json.loads((golden / f"{name}.json").read_text())
    file = read_npz(golden, f"{name}.npz")
    scenes, steps = len(arguments["prompt"]), arguments["num_inference_steps"]
    # The reference draws twice in steps of second order and uses the second draw.
    used = np.cumsum(reference_draws(pipeline.schedule, steps)) - 1
    draws = [file.input("initial_latents"), *file.input("noise_draws")[used]]
    by_scene = iter([scene for draw in draws for scene in to_scenes(draw, scenes)[0]])
    monkeypatch.setattr(noise, "normal", lambda key, shape: next(by_scene))
    storyboard = Storyboard.from_mapping(
        {
            "scenes": as_scenes(arguments["prompt"]),
            "negative_prompt": arguments["negative_prompt"],
            "frames": arguments["num_frames"],
            "steps": steps,
            "sampler": "dpm",
            "as_reference": True,
            "dynamic_guidance": arguments.get("use_dynamic_cfg", False),
            **{key: arguments[key] for key in ("height", "width", "guidance_scale")},
        }
    )
    made = np.stack(build_scenes(pipeline, storyboard, tmp_path))
    expected = np.asarray(channels_last(file.input("video")))[0] * 255
    np.testing.assert_allclose(made.reshape(expected.shape), expected, atol=0.51)


def fail(*_):
    raise MemoryError("out of memory")


@pytest.mark.slow
def test_what_was_denoised_is_not_lost_when_decoding_fails(run, monkeypatch, tmp_path, capsys):
    expected = run(as_scenes(PROMPTS), output=tmp_path / "other")[1]
    with monkeypatch.context() as patch:
        patch.setattr(VaeCodec, "_decode_scene", fail)
        with pytest.raises(MemoryError):
            run(as_scenes(PROMPTS))
    capsys.readouterr()
    _, story, err = run(as_scenes(PROMPTS))
    assert "scene 1: kept" in err and "VAE" in err and "transformer ..." not in err
    assert story["frames_sha256"] == expected["frames_sha256"]
    _, other, err = run(as_scenes(PROMPTS), "--seed=5")  # another story: they are of no use
    assert "transformer ..." in err and other["frames_sha256"] != expected["frames_sha256"]


@pytest.mark.slow
def test_one_network_at_a_time_is_in_memory(model, monkeypatch, tmp_path):
    alive: dict[str, weakref.ref] = {}
    order = []

    def watched(name):
        load = getattr(ReleasedModel, name)

        def watch(self, *args, **kwargs):
            gc.collect()
            assert [n for n, array in alive.items() if array() is not None] == []
            network = load(self, *args, **kwargs)
            alive[name] = weakref.ref(jax.tree.leaves(network.params)[0])
            order.append(name)
            return network

        return watch

    for name in ("text_encoder", "transformer", "vae"):
        monkeypatch.setattr(ReleasedModel, name, watched(name))
    pipeline = load(model)
    storyboard = Storyboard.from_mapping({"scenes": as_scenes(PROMPTS), **SMALL})
    build_scenes(pipeline, storyboard, tmp_path)
    assert order == ["text_encoder", "transformer", "vae"]


def test_impossible_sizes_fail_at_once_with_the_nearest(run, monkeypatch):
    monkeypatch.setattr(ReleasedModel, "transformer", fail)
    status, _, err = run(as_scenes(PROMPTS), "--height=50", width=52)
    assert status == 2
    assert "--height" in err and "story.yaml:1: frames" in err
    assert "height 50 is not a multiple of 16, the nearest are 48 and 64" in err
    assert "width 52 is not a multiple of 16, the nearest are 48 and 64" in err


@pytest.mark.slow
def test_a_long_prompt_is_cut_with_a_note(run):
    status, _, err = run(as_scenes(["a very long prompt " * 10, PROMPTS[1]]))
    assert status == 0
    assert "scenes[0].prompt: the prompt has" in err and "the model reads the first 11" in err


def test_a_folder_without_its_parts_is_refused(run, tmp_path):
    (Path(tmp_path) / "empty" / "transformer").mkdir(parents=True)
    status, _, err = run(as_scenes(PROMPTS), checkpoint=tmp_path / "empty")
    assert status == 2
    assert "transformer/config.json: no such file" in err


@pytest.fixture
def copied(model, tmp_path):
    """A copy of the model to spoil."""
    return shutil.copytree(model, tmp_path / "model")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: os.truncate(f / "vae/diffusion_pytorch_model.safetensors", 5000), "truncated"),
        (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").unlink(), "found no weights"),
        (lambda f: (f / "tokenizer/spiece.model").unlink(), "needs spiece.model or tokenizer.json"),
        (lambda f: (f / "scheduler/scheduler_config.json").write_text("[" * 10**5), "too deeply"),
    ],
)
def test_what_is_missing_of_any_network_is_found_before_the_first_is_read(
    run, copied, spoil, message
):
    spoil(copied)
    status, _, err = run(as_scenes(PROMPTS), checkpoint=copied)
    assert status == 2 and message in err and "text encoder" not in err
    assert message in err.splitlines()[-1]


def test_unused_files_and_unknown_words_are_told(copied):
    (copied / "pytorch_lora_weights.safetensors").touch()
    load(copied, say=(said := []).append)
    plan = plan_story(
        Storyboard.from_mapping({"scenes": as_scenes(["你好", "a cat", "a 猫"])}), load(copied)
    )
    assert len(said) == 1
    assert said[0].startswith(f"{copied}: not used: pytorch_lora_weights.safetensors, ")
    assert [note.split(" (")[0] for note in plan.notes] == [
        "storyboard: scenes[0].prompt: of the prompt the tokenizer does not know 2 of 2 characters",
        "storyboard: scenes[2].prompt: of the prompt the tokenizer does not know 1 of 2 characters",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["transformer", "text_encoder", "vae"])
def test_weights_that_are_no_numbers_end_with_their_network_s_name(run, copied, network):
    (path,) = (copied / network).glob("*.safetensors")
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].size)
    tensors[name].flat[0] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    status, _, err = run(as_scenes(PROMPTS), checkpoint=copied)
    assert status == 2
    assert f"{copied}/{network}: 1 of " in err and f"not finite (NaN or infinite), in {name}" in err
