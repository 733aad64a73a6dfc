"""Models of two transformers: each takes its steps, against a plain loop over them."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.sampling import Conditions, denoise_step, start
from m2dit_jax.models.family import SECOND
from m2dit_jax.pipeline.denoise import denoise, denoise_batch
from m2dit_jax.pipeline.experts import Experts, Turn, turns
from m2dit_jax.pipeline.load import load
from m2dit_jax.stories.noise import START, scene_noise, story_keys
from m2dit_jax.stories.plan import plan_story
from m2dit_jax.stories.storyboard import Storyboard
from m2dit_jax.stories.yaml import StoryboardError
from m2dit_jax.utils.options import OptionError
from m2dit_jax.weights.conversion import execute, make_plan
from m2dit_jax.weights.lora_files import LoraChoice
from m2dit_jax.weights.released import ReleasedModel
from tests.two_transformers import BOUNDARY, GOLDEN, two_transformers, write_adapters

SHAPE = (1, 2, 2, 4, 4, 4)  # B S F H W C
STEPS = 4
SCALES = {"guidance_scale": 4.0, "guidance_scale_2": 2.0}


def normal(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def story() -> Conditions:
    given = jnp.array([[True, False]])
    return Conditions(normal(0), given, normal(1, (1, 2, 6, 32)), normal(2, (1, 2, 6, 32)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return two_transformers(tmp_path_factory.mktemp("experts") / "model")


@pytest.fixture(scope="module")
def models(folder):
    """Both transformers, as functions."""
    released = ReleasedModel(folder)
    loaded = [released.transformer(name=name) for name in ("transformer", "transformer_2")]
    return [jax.jit(nnx.merge(*network)) for network in loaded]


def test_steps_go_to_the_transformer_of_their_noise():
    experts = Experts(lambda: "first", lambda: "second", boundary=875.0)
    found = turns(experts, np.array([1000, 875, 874.9, 3]))
    assert [(turn.load(), turn.numbers) for turn in found] == [
        ("first", range(2)),
        ("second", range(2, 4)),
    ]
    assert turns(experts, np.array([3, 2])) == [Turn(experts.second, range(2))]
    assert turns(experts, np.array([900])) == [Turn(experts.first, range(1))]


def test_euler_is_the_loop_over_sigmas(folder, models):
    """As diffusers has it: a timestep of at least 0.875 x 1000 is the first one's."""
    pipe = load(folder, memory="offload")
    steps = pipe.options.replace(sampler="euler", steps=STEPS, **SCALES).table(pipe.schedule, 2)
    found = list(pipe.denoise(steps, story(), normal(3), lambda number: normal(0)))
    assert pipe.networks.loaded == ("transformer_2",)  # the first has been freed

    fractions = np.linspace(1, 1 / 1000, STEPS + 1)[:-1]
    sigmas = 3 * fractions / (1 + 2 * fractions)
    took = []
    latents, text, given = normal(3).at[:, 0].set(story().clean[:, 0]), story(), story().given
    for sigma, following in zip(sigmas, [*sigmas[1:], 0], strict=True):
        timestep = int(min(sigma, 1 - 1e-6) * 1000)
        expert = int(timestep < BOUNDARY * 1000)
        took.append(expert)
        times = jnp.where(given, 0, timestep)
        negative, positive = (
            models[expert](latents, embeds, times, given)
            for embeds in (text.negative_embeds, text.text_embeds)
        )
        v = negative + (4.0, 2.0)[expert] * (positive - negative)
        latents = latents.at[:, 1].add((following - sigma) * v[:, 1])
    assert took == [0, 0, 1, 1]
    np.testing.assert_allclose(found[-1].latents, latents, atol=2e-5)


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_unipc_remembers_what_the_first_one_made(folder, models, memory):
    pipe = load(folder, memory=memory)
    options = pipe.options.replace(steps=STEPS, **SCALES)
    steps = options.table(pipe.schedule, 2)

    def denoiser(latents, text, times, given):
        expert = int(times.max() < BOUNDARY * 1000)
        return models[expert](latents, text, times, given)

    conditions, state = start(steps, story(), normal(3))
    for number in range(STEPS):
        row = jax.tree.map(lambda rows, number=number: jnp.asarray(rows[number]), steps)
        state, _ = denoise_step(denoiser, conditions, row, state, normal(0))
    found = list(pipe.denoise(steps, story(), normal(3), lambda number: normal(0)))
    np.testing.assert_allclose(found[-1].latents, state.latents, atol=2e-5)
    both = ("transformer", "transformer_2")
    assert pipe.networks.loaded == (both if memory == "resident" else both[1:])


def test_defaults_are_those_of_the_release(folder):
    pipe = load(folder)
    defaults = pipe.defaults
    assert (defaults.steps, defaults.guidance_scale, defaults.guidance_scale_2) == (40, 4.0, 3.0)
    table = pipe.options.table(pipe.schedule)
    is_first = np.asarray(table.timesteps) >= 875
    assert 0 < is_first.sum() < 40
    np.testing.assert_array_equal(table.guidance, np.where(is_first, 4, 3))
    plain = pipe.options.replace(guidance_scale_2=None).table(pipe.schedule)
    np.testing.assert_array_equal(plain.guidance, 4)


def test_what_saves_evaluations_begins_anew_with_the_second_one(folder):
    pipe = load(folder)
    options = pipe.options.replace(steps=STEPS, reuse_uncond=3, cache_tolerance=0.5)
    table = options.table(pipe.schedule)
    np.testing.assert_array_equal(table.refresh, [2, 1, 2, 2])
    np.testing.assert_array_equal(table.tolerance, [0, 0.5, 0, 0])


def test_a_second_scale_needs_two_transformers_and_no_growing_scale(folder):
    options = load(folder).options
    with pytest.raises(OptionError, match="guidance_scale_2: found 3.*has one transformer"):
        options.table(FlowSchedule(1000, 3.0))
    with pytest.raises(OptionError, match="guidance_scale_2: found 3.*beside dynamic_guidance"):
        options.replace(dynamic_guidance=True).table(load(folder).schedule)


@pytest.fixture(scope="module")
def style(tmp_path_factory):
    return write_adapters(tmp_path_factory.mktemp("lora") / "style.safetensors")


def merged(folder, style, target, *names):
    """The folder with adapters of half weight in the transformers of these names."""
    shutil.copytree(folder, target)
    for name in names:
        shutil.rmtree(target / name)
        lora = [LoraChoice(style, 0.5)]
        execute(make_plan(folder / name, target / name, None, None, lora), lambda nbytes: None)
    return target


def last(pipe, lora=()):
    steps = pipe.options.replace(steps=STEPS, **SCALES).table(pipe.schedule, 2)
    *_, made = pipe.denoise(steps, story(), normal(3), lambda number: normal(0), lora=lora)
    return np.asarray(made.latents)


@pytest.mark.parametrize(
    ("expert", "names"),
    [
        ("high_noise=", ["transformer"]),
        ("low_noise=", ["transformer_2"]),
        ("", ["transformer", "transformer_2"]),
    ],
)
def test_adapters_of_one_transformer_or_both_are_as_merged(folder, style, tmp_path, expert, names):
    choice, said = f"{expert}{style}:0.5", []
    expected = last(load(merged(folder, style, tmp_path / "merged", *names)))
    pipe = load(folder, lora=[choice], say=said.append)
    np.testing.assert_allclose(last(pipe), expected, atol=1e-5)
    by_storyboard = last(load(folder, memory="resident"), [[choice]] * 2)
    np.testing.assert_allclose(by_storyboard, expected, atol=1e-4)
    assert np.abs(last(load(folder)) - expected).max() > 1e-2
    both = f"{style}: added to both transformers, after high_noise= or low_noise= to one"
    assert (both in said) == (expert == "")


def test_what_is_made_knows_which_transformer_has_adapters(folder, style):
    pipes = [load(folder, lora=[f"{expert}{style}"]) for expert in ("", "high_noise=")]
    assert pipes[0].fingerprint != pipes[1].fingerprint
    assert pipes[1].facts.provenance["lora"][0]["expert"] == "high_noise"
    assert pipes[0].check_lora(str(style)) != pipes[0].check_lora(f"low_noise={style}")


def test_an_expert_of_a_model_of_one_transformer_is_refused(style):
    with pytest.raises(ValueError, match=f"high_noise={style}: is for models of two transformers"):
        load(GOLDEN, lora=[f"high_noise={style}"])
    with pytest.raises(ValueError, match="this has one; needs .*style.safetensors alone"):
        load(GOLDEN).check_lora(f"low_noise={style}")


def test_scenes_have_no_adapters_of_their_own(folder, style):
    board = {"scenes": ["a", {"prompt": "b", "lora": [f"low_noise={style}"]}], "frames": 5}
    small = {"height": 16, "width": 32}
    with pytest.raises(StoryboardError, match=r"scenes\[1\].lora: .*adapters for a whole story"):
        plan_story(Storyboard.from_mapping(board | small), load(folder))


def test_a_batch_goes_through_both(folder):
    released = ReleasedModel(folder)
    experts = Experts(released.transformer, lambda: released.transformer(name=SECOND), 875.0)
    steps = load(folder).options.replace(steps=STEPS).table(released.schedule, 2)
    keys = story_keys([7], range(2))
    made = denoise_batch(experts, steps, story(), keys)
    noise = scene_noise(keys, START, SHAPE[2:])
    *_, last = denoise(experts, steps, story(), noise, lambda number: normal(0))
    np.testing.assert_array_equal(made.latents, last.latents)
    np.testing.assert_array_equal(made.evaluations, [[2]] * STEPS)
