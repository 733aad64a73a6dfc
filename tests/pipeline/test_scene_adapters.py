"""Adapters that a storyboard names, for the whole story and for single scenes."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from m2dit_jax.pipeline.load import _scene_adapters
from m2dit_jax.pipeline.memory_plan import MemoryPlan
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.storyboard import Scene, Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.weights.lora_files import write_lora
from tests.engines import random_engine

PROMPTS = ["a red cross moves up on gray", "it moves left on navy"]


@pytest.fixture(scope="module")
def engine(make_tiny_config):
    return random_engine(make_tiny_config(), scale=0.1)


@pytest.fixture(scope="module")
def folder(engine, tmp_path_factory):
    """A folder with two LoRA files for the engine's model."""
    folder = tmp_path_factory.mktemp("lora")
    parts = _scene_adapters(engine.trained.recipe).parts
    kernels = {
        leaf for leaf in (part.leaf for part in parts.values()) if leaf.endswith("to_q.kernel")
    }
    [leaf] = kernels
    place = tuple(leaf.removesuffix(".kernel").split("."))
    layers = 1 + max(part.layer for part in parts.values() if part.leaf == leaf)
    shape = next(part.shape for part in parts.values() if part.leaf == leaf)
    for seed, name in enumerate(("style", "other")):
        rng = np.random.default_rng(seed)
        sizes = {"a": (layers, shape[-1], 2), "b": (layers, 2, shape[0])}
        tree = unflatten_dict(
            {(*place, "lora", n): rng.normal(size=s).astype("f") for n, s in sizes.items()}
        )
        write_lora(folder / f"{name}.safetensors", tree, 1.0, parts)
        assert flatten_dict(tree)
    return folder


def story(folder, *scenes, **fields):
    scenes = [{"prompt": p, **own} for p, own in zip(PROMPTS, scenes, strict=True)]
    return Storyboard.from_mapping({"scenes": scenes, "steps": 2, **fields}, folder)


def test_a_story_and_its_scenes_have_their_adapters(engine, folder):
    plain = engine(story(folder, {}, {}))
    everywhere = engine(story(folder, {}, {}, lora="style.safetensors"))
    first = engine(story(folder, {"lora": ["style.safetensors"]}, {}))
    second = engine(story(folder, {"lora": []}, {}, lora=["style.safetensors"]))
    made = [plain, everywhere, first, second]
    frames = [np.stack(each.frames[:]) for each in made]
    for number, one in enumerate(frames):
        for other in frames[number + 1 :]:
            assert (one != other).any()
    weak = engine(story(folder, {}, {}, lora=["style.safetensors:0"]))
    assert np.abs(np.stack(weak.frames[:]).astype(int) - frames[0]).max() <= 1


def test_scenes_know_the_file_and_its_weight(engine, folder, tmp_path):
    out = tmp_path / "out"
    board = story(folder, {"lora": ["style.safetensors:0.5"]}, {})
    engine(board, folder=out)
    assert not any("anew" in line for line in engine.explain(board, out))
    again = Storyboard.read(out / "storyboard.json")
    assert again.scenes[0].lora == (str(folder / "style.safetensors:0.5"),)
    for lora in ("style.safetensors", "other.safetensors:0.5"):
        lines = engine.explain(story(folder, {"lora": [lora]}, {}), out)
        assert any("lora" in line for line in lines)
    plain = plan_story(story(folder, {}, {}), engine)
    assert not plain.lora(0) and plain.lora_digests == {}


def test_a_written_storyboard_finds_them_from_everywhere(folder, monkeypatch):
    monkeypatch.chdir(folder)
    everywhere, own = "style.safetensors", "other.safetensors:0.5"
    scenes = Scene(prompt=PROMPTS[0], lora=(own,)), Scene(prompt=PROMPTS[1])
    board = Storyboard(scenes=scenes, lora=(everywhere, "gs://bucket/far.safetensors"))
    written = board.to_mapping()
    monkeypatch.chdir(folder.parent)
    again = Storyboard.from_mapping(written, folder.parent)
    assert again.lora == (str(folder / everywhere), "gs://bucket/far.safetensors")
    assert again.scenes[0].lora == (str(folder / own),) and again.scenes[1].lora is None


def test_streamed_blocks_are_refused_before_a_network_is_read(engine, folder, monkeypatch):
    monkeypatch.setattr(engine.networks, "plan", MemoryPlan("stream"))
    monkeypatch.setattr(engine.networks, "get", lambda name: pytest.fail(f"reads {name}"))
    with pytest.raises(StoryboardError, match="^lora: .*needs --memory=resident or offload"):
        engine(story(folder, {"lora": ["style.safetensors"]}, {}))


@pytest.mark.parametrize(
    ("lora", "problem"),
    [
        (["none.safetensors"], r"scenes\[0\].lora: .*no LoRA there"),
        (["style.safetensors:loud"], r"scenes\[0\].lora: .*'loud'"),
        ([3], r"scenes\[0\].lora: .*needs text"),
    ],
)
def test_files_that_cannot_be_are_named(engine, folder, lora, problem):
    with pytest.raises(StoryboardError, match=problem):
        engine(story(folder, {"lora": lora}, {}))
