"""Stories of a model folder of the Wan family."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from flax import nnx

from m2dit_jax import sample
from m2dit_jax.pipeline.load import load
from m2dit_jax.utils.media import read_clip, write_mp4
from tests.two_transformers import two_transformers

pytestmark = pytest.mark.e2e

MODEL = Path(__file__).parent / "golden_wan/pipe_wan21"


@pytest.mark.slow  # compiles all networks: from prompts and a given clip to files
def test_a_story_with_a_given_scene(tmp_path, capsys):
    clip = np.random.default_rng(0).integers(0, 255, (5, 16, 32, 3), np.uint8)
    write_mp4(tmp_path / "clip.mp4", clip, 16)
    scenes = [{"prompt": "a fox", "video": "clip.mp4"}, "it rests", "it drinks"]
    story = {"scenes": scenes, "frames": 5, "height": 16, "width": 32, "steps": 3}
    (tmp_path / "story.yaml").write_text(yaml.safe_dump(story))
    flags = [f"--storyboard={tmp_path / 'story.yaml'}", f"--output={tmp_path / 'out'}"]
    assert sample.main([f"--checkpoint={MODEL}", *flags]) == 0, capsys.readouterr().err
    made = json.loads((tmp_path / "out/story.json").read_text())
    assert [scene["given"] for scene in made["scenes"]] == [True, False, False]
    frames = read_clip(tmp_path / "out/scene_2.mp4", 5, 16, 32)
    assert frames.shape == (5, 16, 32, 3)


def test_defaults_are_those_of_the_family():
    defaults = load(MODEL).facts.defaults
    assert (defaults.sampler, defaults.steps, defaults.guidance_scale) == ("unipc", 50, 5.0)
    assert (defaults.frames, defaults.height, defaults.width, defaults.fps) == (81, 480, 832, 16.0)
    assert defaults.negative_prompt.startswith("色调艳丽")


def test_a_released_model_can_have_another_mask():
    plain, same = load(MODEL), load(MODEL, mask="symmetric")
    other = load(MODEL, mask="block_diagonal")
    assert (plain.mask, other.mask) == ("symmetric", "block_diagonal")
    assert plain.fingerprint == same.fingerprint != other.fingerprint
    with other.networks.session():
        network = nnx.merge(*other.networks.get("transformer"))
        assert set(network.block_masks) == {"symmetric", "opening_frame"}
    with pytest.raises(ValueError, match="mask='none': needs one of"):
        load(MODEL, mask="none")


def test_a_run_keeps_the_mask_that_it_learnt_with(tmp_path):
    with pytest.raises(ValueError, match="mask='full': only for a model folder"):
        load(tmp_path, mask="full")


def test_a_second_transformer_needs_its_share_and_its_shape(tmp_path):
    folder = two_transformers(tmp_path / "model")
    config, index = folder / "transformer_2/config.json", folder / "model_index.json"
    config.write_text(config.read_text().replace('"ffn_dim": 96', '"ffn_dim": 64'))
    with pytest.raises(ValueError, match="transformer_2/config.json describes another network"):
        load(folder)
    named = json.loads(index.read_text())
    for wrong in (None, 1.5, True, "0.9"):
        index.write_text(json.dumps(named | {"boundary_ratio": wrong}))
        needed = f"a boundary_ratio between 0 and 1.*found transformer_2/.*{wrong!r}"
        with pytest.raises(ValueError, match=needed):
            load(folder)
    shutil.rmtree(folder / "transformer_2")
    index.write_text(json.dumps(named))
    with pytest.raises(ValueError, match="found no transformer_2/, boundary_ratio 0.875"):
        load(folder)
