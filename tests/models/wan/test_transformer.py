import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.models.placement import ONE_DEVICE
from m2dit_jax.models.wan.transformer import WanTransformer
from m2dit_jax.models.wan.transformer_config import WanConfig
from m2dit_jax.parallel.context import MeshPlacement
from m2dit_jax.parallel.mesh import make_mesh
from tests.models.random_weights import with_random_weights

FIELDS = dict(
    channels=3, patch_size=2, layers=2, heads=2, head_dim=8, hidden=12, text_dim=6, time_dim=8
)


@functools.cache
def make_model(**changes) -> WanTransformer:
    config = WanConfig(**(FIELDS | {"scan": False} | changes))
    return with_random_weights(WanTransformer(config, rngs=nnx.Rngs(0)))


def make_inputs(scenes: int = 3, texts: int | None = None):
    keys = jax.random.split(jax.random.key(2), 2)
    latents = jax.random.normal(keys[0], (2, scenes, 2, 4, 6, 3))
    text_embeds = jax.random.normal(keys[1], (2, texts or scenes, 4, 6))
    return latents, text_embeds, jnp.full((2, scenes), 500)


def predict(model, inputs, *given, **options):
    graphdef, params = nnx.split(model)
    run = jax.jit(lambda params, *args: nnx.merge(graphdef, params)(*args, **options))
    return run(params, *inputs, *given)


def reached(model, inputs, changed, *given) -> list[bool]:
    """Which scenes are not what they were."""
    moved = predict(model, changed, *given) - predict(model, inputs, *given)
    return [bool(jnp.abs(moved[0, scene]).max() > 1e-6) for scene in range(moved.shape[1])]


def loss_and_grads(model, placement=None):
    graphdef, params = nnx.split(model)
    inputs = make_inputs()
    options = {} if placement is None else {"placement": placement}

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return jnp.mean(nnx.merge(graphdef, params)(*inputs, **options) ** 2)

    return jax.device_get(jax.tree.leaves(loss(params)))


@pytest.mark.parametrize("remat", ["none", "attention"])  # all of them: tests/models/test_stacked
def test_scan_and_remat_equal_the_unrolled_blocks(remat):
    chex.assert_trees_all_close(
        loss_and_grads(make_model(scan=True, remat=remat)), loss_and_grads(make_model()), atol=1e-5
    )


def test_a_frame_with_a_timestep_of_its_own_is_like_a_scene_of_one_frame():
    """Where all see all: a clean first frame, and the others of its scene with noise."""
    model = make_model(mask="full")
    latents, text, _ = make_inputs()
    story, text = latents[:, :2], jnp.repeat(text[:, :1], 2, axis=1)
    cut = jnp.stack([story[:, 0, [0, 0, 0]], jnp.concatenate([story[:, 0, 1:], story[:, 1]], 1)], 1)
    times = jnp.tile(jnp.array([0, 500]), (2, 1))
    expected = predict(model, (cut, text, times), frames=(1, 3))
    whole = story.reshape(2, 1, 4, 4, 6, 3)
    frame_times = jnp.tile(jnp.array([[0, 500, 500, 500]]), (2, 1, 1))
    found = predict(model, (whole, text[:, :1], frame_times))
    np.testing.assert_allclose(found[:, 0, 0], expected[:, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found[:, 0, 1:], expected[:, 1], atol=1e-5)
    same = predict(model, (whole, text[:, :1], frame_times.at[:].set(500)))
    plain = predict(model, (whole, text[:, :1], jnp.full((2, 1), 500)))
    np.testing.assert_allclose(same, plain, atol=1e-6)
    assert jnp.abs(found - plain).max() > 1e-3


def test_frames_of_scenes_of_different_lengths_have_their_own_timesteps():
    """Of what is filled up there is none; a global text has none either."""
    model = make_model(mask="full")
    latents, text, timesteps = make_inputs(scenes=2, texts=3)
    plain = predict(model, (latents, text, timesteps), frames=(1, 2))
    by_frame = jnp.broadcast_to(timesteps[..., None], (2, 2, 2)).at[:, 0, 1].set(7)
    found = predict(model, (latents, text, by_frame), frames=(1, 2))
    np.testing.assert_allclose(found, plain, atol=1e-6)


def test_a_fresh_model_predicts_zero():
    model = WanTransformer(WanConfig(**FIELDS), rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(predict(model, make_inputs()), 0)


def test_in_one_block_a_prompt_reaches_its_own_scene_only():
    latents, text, timesteps = inputs = make_inputs()
    changed = latents, text.at[:, 1].add(1.0), timesteps
    masks = ("symmetric", "full", "independent", "first_frame")
    found = {mask: reached(make_model(layers=1, mask=mask), inputs, changed) for mask in masks}
    alone = [False, True, False]
    assert found == dict.fromkeys(masks, alone) | {"full": [True] * 3}


def test_video_reaches_every_scene_unless_they_are_independent():
    latents, text, timesteps = inputs = make_inputs()
    changed = latents.at[:, 1].add(1.0), text, timesteps
    assert reached(make_model(), inputs, changed) == [True] * 3
    assert reached(make_model(mask="independent"), inputs, changed) == [False, True, False]


def test_a_timestep_modulates_its_own_scene_and_may_be_a_fraction():
    latents, text, timesteps = inputs = make_inputs()
    model = make_model(mask="independent")
    changed = latents, text, timesteps.at[:, 2].set(3)
    assert reached(model, inputs, changed) == [False, False, True]
    whole, same = (predict(model, (latents, text, t)) for t in (timesteps, timesteps * 1.0))
    np.testing.assert_array_equal(whole, same)
    assert jnp.abs(predict(model, (latents, text, timesteps + 0.5)) - whole).max() > 1e-6


def test_a_global_prompt_reaches_every_scene():
    latents, text, timesteps = inputs = make_inputs(scenes=2, texts=3)
    changed = latents, text.at[:, 0].add(1.0), timesteps
    assert reached(make_model(layers=1), inputs, changed) == [True, True]
    changed = latents, text.at[:, 2].add(1.0), timesteps
    assert reached(make_model(layers=1), inputs, changed) == [False, True]


def test_what_shorter_scenes_are_filled_up_with_does_not_matter():
    latents, text, timesteps = make_inputs()
    frames = (1, 2, 1)
    model = make_model()
    out = predict(model, (latents, text, timesteps), frames=frames)
    filled = latents.at[:, 0, 1:].set(9.0).at[:, 2, 1:].set(-9.0)
    np.testing.assert_allclose(
        predict(model, (filled, text, timesteps), frames=frames), out, atol=1e-6
    )
    np.testing.assert_array_equal(out[:, 0, 1:], 0)
    same = predict(model, (latents, text, timesteps), frames=(2, 2, 2))
    np.testing.assert_allclose(same, predict(model, (latents, text, timesteps)), atol=1e-6)


@pytest.mark.parametrize("mask", ["causal", "block_diagonal"])
def test_attention_implementations_agree(mask):
    inputs, given = make_inputs(), jnp.array([[True, False, False]] * 2)
    expected = predict(make_model(mask=mask, attention="dense"), inputs, given)
    for name in ("grouped", "chunked"):
        out = predict(make_model(mask=mask, attention=name), inputs, given)
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_under_the_causal_mask_given_scenes_see_nothing_generated():
    latents, text, timesteps = inputs = make_inputs()
    given = jnp.array([[True, False, True]] * 2)
    changed = latents.at[:, 1].add(1.0), text.at[:, 1].add(1.0), timesteps
    model = make_model(mask="causal")
    assert reached(model, inputs, changed, given) == [False, True, False]
    with pytest.raises(ValueError, match="needs to know which scenes are `given`"):
        model(*inputs)


@pytest.mark.parametrize("scan", [True, False])
def test_with_the_cache_generated_scenes_are_as_in_the_whole_story(scan):
    given = (False, True, False)
    graphdef, params = nnx.split(make_model(mask="causal", scan=scan))
    latents, text, timesteps = make_inputs()
    timesteps = jnp.where(jnp.array(given), 0, timesteps)
    known, new = np.flatnonzero(given), np.flatnonzero(np.logical_not(given))

    @jax.jit
    def both(params):
        model = nnx.merge(graphdef, params)
        whole = model(latents, text, timesteps, jnp.array([given] * 2))
        cached = model.cache_given(latents[:, known], text[:, known], given)
        alone = model.predict_cached(
            latents[:, new], text[:, new], timesteps[:, new], cached, given
        )
        return whole[:, new], alone

    whole, alone = both(params)
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    with pytest.raises(ValueError, match="under the attention mask 'causal' only"):
        make_model().cache_given(latents[:, known], text[:, known], given)


def test_block_by_block_it_is_the_same():
    model, inputs = make_model(mask="block_diagonal", layers=3), make_inputs()
    tokens, story = model.begin(*inputs)
    block_def, stacked = nnx.split(model.blocks)
    for number, mask in enumerate(model.block_masks):
        layer = jax.tree.map(lambda p, i=number: p[i], stacked)
        model.blocks = nnx.merge(block_def, layer)
        tokens = model.run_layer(mask, tokens, story, ONE_DEVICE)
    model.blocks = nnx.merge(block_def, stacked)
    out = model.end(tokens, story, ONE_DEVICE)
    np.testing.assert_allclose(out, predict(model, inputs), atol=1e-5)


def test_impossible_inputs_are_refused():
    latents, text, timesteps = make_inputs()
    with pytest.raises(ValueError, match="3 scenes need a text each.*found 2 texts"):
        make_model()(latents, text[:, :2], timesteps)
    with pytest.raises(ValueError, match="2x3x6 .* do not divide into patches of 1x2x2"):
        make_model()(latents[:, :, :, :3], text, timesteps)
    with pytest.raises(ValueError, match=r"3 scenes of up to 2 frames cannot have \(3, 1, 1\)"):
        make_model()(latents, text, timesteps, frames=(3, 1, 1))


@pytest.mark.slow  # the only test of cross-attention and whole blocks on a mesh
def test_over_devices_it_is_what_it_is_on_one(on_eight_devices):
    on_eight_devices(_check_mesh)


def _check_mesh():
    for heads, sizes in ((4, (1, 2, 4)), (3, (2, 1, 4))):  # 3 heads: parts of the queries
        mesh = make_mesh(dict(zip(("data", "fsdp", "context"), sizes, strict=True)))
        model = make_model(heads=heads, scan=True, attention="grouped")
        over_devices = loss_and_grads(model, MeshPlacement(mesh))
        chex.assert_trees_all_close(over_devices, loss_and_grads(model), atol=1e-5)


@pytest.mark.parametrize("change", [{"mask": "any"}, {"remat": "none at all"}, {"head_dim": 3}])
def test_impossible_configs_are_refused(change):
    with pytest.raises(ValueError, match=r"unknown|rotary positions need"):
        WanConfig(**(FIELDS | change))
