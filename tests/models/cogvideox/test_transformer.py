import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from m2dit_jax.models.cogvideox.transformer import (
    M2DiT,
    TransformerConfig,
    patchify,
    unpatchify,
)
from m2dit_jax.models.remat import REMAT
from tests.models.random_weights import random_transformer

FIELDS = dict(
    channels=3, patch_size=2, layers=2, heads=2, head_dim=16, text_dim=6, time_dim=8, scan=False
)


@functools.cache
def make_model(**changes) -> M2DiT:
    return random_transformer(TransformerConfig(**(FIELDS | changes)))


def make_inputs(scenes: int = 3, text: int = 5) -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(2), 2)
    latents = jax.random.normal(keys[0], (2, scenes, 3, 4, 6, 3))
    text_embeds = jax.random.normal(keys[1], (2, scenes, text, 6))
    return latents, text_embeds, jnp.full((2, scenes), 500)


def predict(model: M2DiT, inputs: tuple[jax.Array, ...]) -> jax.Array:
    graphdef, params = nnx.split(model)
    return jax.jit(lambda params, *inputs: nnx.merge(graphdef, params)(*inputs))(params, *inputs)


def loss_and_grads(model: M2DiT) -> tuple[jax.Array, nnx.State]:
    graphdef, params = nnx.split(model)
    inputs = make_inputs()

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return jnp.mean(nnx.merge(graphdef, params)(*inputs) ** 2)

    return loss(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"scan": True},
        *({"remat": name} for name in REMAT if name != "none"),
        {"scan": True, "remat": "full"},
    ],
)
def test_scan_and_remat_equal_the_unrolled_blocks(changes):
    plain = loss_and_grads(make_model())
    other = loss_and_grads(make_model(**changes))
    chex.assert_trees_all_close(jax.tree.leaves(other), jax.tree.leaves(plain), atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_each_block_has_its_own_mask(scan):
    """Others' later frames reach a scene only if some block lets them."""
    changes = dict(mask="block_diagonal", scan=scan)
    inputs = make_inputs()

    def first_scene_moves(layers: int, masks: tuple[str, ...], place: tuple[int, int]) -> bool:
        model = random_transformer(TransformerConfig(**(FIELDS | changes | {"layers": layers})))
        assert model.block_masks == masks
        latents = inputs[0].at[:, *place].add(1.0)
        moved = predict(model, (latents, *inputs[1:])) - predict(model, inputs)
        return bool(jnp.abs(moved[:, 0]).max() > 1e-6)

    mixed = ("symmetric", "opening_frame", "opening_frame")
    assert first_scene_moves(3, mixed, (2, 2))
    changes["mask"] = "opening_frame"
    assert not first_scene_moves(2, ("opening_frame",) * 2, (2, 2))
    assert first_scene_moves(2, ("opening_frame",) * 2, (0, 2))


def test_scan_runs_blocks_of_several_masks_as_unrolled():
    changes = dict(mask="block_diagonal", layers=3)
    plain, scanned = make_model(**changes), make_model(**changes, scan=True)
    inputs = make_inputs()
    chex.assert_trees_all_close(predict(scanned, inputs), predict(plain, inputs), atol=1e-5)


def test_text_that_knows_its_scene_may_not_change_places():
    """Under the full mask video cannot tell whose text it sees, unless that knows its scene."""
    latents, text, timesteps = make_inputs()
    swapped = latents, text[:, ::-1], timesteps
    plain = make_model(mask="full")
    inputs = latents, text, timesteps
    np.testing.assert_allclose(predict(plain, swapped), predict(plain, inputs), atol=1e-5)
    knows = make_model(mask="full", scene_positions=True)
    assert jnp.abs(predict(knows, swapped) - predict(knows, inputs)).max() > 1e-3
    with_global = latents, jnp.concatenate([text[:, :1], text], axis=1), timesteps
    assert predict(knows, with_global).shape == latents.shape


def test_a_fresh_model_predicts_zero():
    model = M2DiT(TransformerConfig(**FIELDS), rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(predict(model, make_inputs()), 0)


def test_patches_in_time_and_added_positions():
    inputs = make_inputs()
    with_positions = predict(make_model(patch_size_t=3, added_positions=True), inputs)
    without = predict(make_model(patch_size_t=3), inputs)
    assert with_positions.shape == inputs[0].shape
    assert jnp.max(jnp.abs(with_positions - without)) > 1e-3


def test_any_number_of_scenes_and_text_length():
    model = make_model()
    for scenes, text in [(1, 1), (2, 7), (5, 3)]:
        inputs = make_inputs(scenes, text)
        assert predict(model, inputs).shape == inputs[0].shape


def changed_scenes(model: M2DiT, inputs, changed_inputs) -> list[bool]:
    before, after = predict(model, inputs), predict(model, changed_inputs)
    return [bool(jnp.any(jnp.abs(after[0, s] - before[0, s]) > 1e-6)) for s in range(3)]


def test_in_one_block_a_prompt_reaches_its_own_scene_only():
    latents, text, timesteps = make_inputs()
    other_text = text.at[:, 1].add(1.0)
    inputs, changed = (latents, text, timesteps), (latents, other_text, timesteps)
    reached = {
        mask: changed_scenes(make_model(layers=1, mask=mask), inputs, changed)
        for mask in ("symmetric", "full", "independent")
    }
    assert reached["symmetric"] == [False, True, False]
    assert reached["independent"] == [False, True, False]
    assert reached["full"] == [True, True, True]


def test_video_reaches_every_scene_unless_they_are_independent():
    latents, text, timesteps = make_inputs()
    inputs, changed = (latents, text, timesteps), (latents.at[:, 1].add(1.0), text, timesteps)
    assert changed_scenes(make_model(), inputs, changed) == [True, True, True]
    independent = make_model(mask="independent")
    assert changed_scenes(independent, inputs, changed) == [False, True, False]


def test_timesteps_modulate_each_scene_by_its_own():
    latents, text, timesteps = make_inputs()
    inputs, changed = (latents, text, timesteps), (latents, text, timesteps.at[:, 0].set(0))
    independent = make_model(mask="independent")
    assert changed_scenes(independent, inputs, changed) == [True, False, False]


LENGTHS = (2, 4, 2)


def make_ragged_inputs(text=3):
    keys = jax.random.split(jax.random.key(4), 2)
    latents = jax.random.normal(keys[0], (2, 3, 4, 4, 6, 3))
    return latents, jax.random.normal(keys[1], (2, text, 5, 6)), jnp.full((2, 3), 500)


def predict_ragged(model, inputs, frames=LENGTHS, given=None):
    graphdef, params = nnx.split(model)

    def run(params, *inputs):
        return nnx.merge(graphdef, params)(*inputs, given, frames=frames)

    return jax.jit(run)(params, *inputs)


@pytest.mark.parametrize("changes", [{}, {"added_positions": True, "patch_size_t": 2}])
def test_what_shorter_scenes_are_filled_up_with_does_not_matter(changes):
    model = make_model(**changes)
    inputs = make_ragged_inputs()
    beyond = np.arange(4)[None, :] >= np.array(LENGTHS)[:, None]
    other = jnp.where(beyond[None, :, :, None, None, None], 100.0, inputs[0])
    out = predict_ragged(model, inputs)
    np.testing.assert_array_equal(predict_ragged(model, (other, *inputs[1:])), out)
    assert not np.any(np.asarray(out)[:, beyond]) and np.any(np.asarray(out)[:, ~beyond])
    graphdef, params = nnx.split(model)

    @jax.jit
    @jax.grad
    def gradient(latents):
        out = nnx.merge(graphdef, params)(latents, *inputs[1:], frames=LENGTHS)
        return jnp.sum(out**2)

    of_latents = np.asarray(gradient(inputs[0]))
    assert not np.any(of_latents[:, beyond]) and np.all(
        np.any(of_latents[:, ~beyond], (-3, -2, -1))
    )


def test_lengths_that_are_all_the_same_change_nothing():
    inputs = make_ragged_inputs()
    np.testing.assert_array_equal(
        predict_ragged(make_model(), inputs, (4, 4, 4)), predict_ragged(make_model(), inputs, None)
    )


def test_time_runs_on_through_scenes_of_different_lengths():
    """Two scenes of 2 and 4 frames, and of 4 and 2: under the full mask the same six frames.

    Each scene has the same prompt, so that which frames belong together makes no difference.
    """
    model = make_model(mask="full")
    latents, text, timesteps = make_ragged_inputs()
    frames = jnp.concatenate([latents[:, 0], latents[:, 1, :2]], axis=1)
    text = jnp.broadcast_to(text[:, :1], text[:, :2].shape)

    def run(lengths):
        first, second = jnp.split(frames, [lengths[0]], axis=1)
        scenes = [jnp.pad(x, ((0, 0), (0, 4 - x.shape[1]), *[(0, 0)] * 3)) for x in (first, second)]
        out = predict_ragged(model, (jnp.stack(scenes, 1), text, timesteps[:, :2]), lengths)
        return jnp.concatenate([out[:, 0, : lengths[0]], out[:, 1, : lengths[1]]], axis=1)

    np.testing.assert_allclose(run((2, 4)), run((4, 2)), atol=2e-5)


def test_a_global_prompt_reaches_every_scene_in_one_block_and_others_do_not():
    model = make_model(layers=1)
    latents, text, timesteps = make_ragged_inputs(text=4)
    out = predict_ragged(model, (latents, text, timesteps))

    def reached(changed):
        other = predict_ragged(model, (latents, text.at[:, changed].add(1.0), timesteps))
        return [bool(jnp.any(jnp.abs(other - out)[:, scene] > 1e-6)) for scene in range(3)]

    assert reached(0) == [True, True, True]
    assert reached(2) == [False, True, False]


def test_attention_implementations_agree_on_lengths_and_global_prompt():
    inputs = make_ragged_inputs(text=4)
    given = jnp.array([[True, False, False]] * 2)
    for mask in ("symmetric", "causal"):
        dense, *others = (
            predict_ragged(make_model(mask=mask, attention=name), inputs, given=given)
            for name in ("dense", "grouped", "chunked")
        )
        for other in others:
            np.testing.assert_allclose(other, dense, atol=2e-5)


def test_gradients_agree_on_lengths_and_global_prompt():
    inputs = make_ragged_inputs(text=4)

    def gradient(name):
        graphdef, params = nnx.split(make_model(attention=name))

        @jax.jit
        @jax.grad
        def of_loss(params):
            out = nnx.merge(graphdef, params)(*inputs, frames=LENGTHS)
            return jnp.mean(out**2)

        return jax.tree.leaves(of_loss(params))

    chex.assert_trees_all_close(gradient("grouped"), gradient("dense"), atol=1e-5)


def test_under_the_causal_mask_given_scenes_and_global_prompt_see_nothing_generated():
    model = make_model(mask="causal")
    latents, text, timesteps = make_ragged_inputs(text=4)
    given = jnp.array([[True, False, False]] * 2)
    out = predict_ragged(model, (latents, text, timesteps), given=given)
    changed = latents.at[:, 1].add(1.0), text, timesteps.at[:, 1:].set(7)
    other = predict_ragged(model, changed, given=given)
    np.testing.assert_array_equal(other[:, 0], out[:, 0])
    assert jnp.abs(other[:, 2] - out[:, 2]).max() > 1e-4


@pytest.mark.parametrize("frames", [(2, 5, 2), (2, 2), (0, 2, 2)])
def test_impossible_lengths_are_refused(frames):
    with pytest.raises(ValueError, match="3 scenes of up to 4 frames cannot have"):
        predict_ragged(make_model(), make_ragged_inputs(), frames)


def test_texts_must_be_one_for_each_scene_and_one_for_all():
    with pytest.raises(ValueError, match="3 scenes need a text each, and perhaps a global one"):
        predict_ragged(make_model(), make_ragged_inputs(text=5))


def test_patches_hold_channel_then_row_then_column():
    latents = jnp.arange(2 * 4 * 4.0).reshape(1, 1, 1, 4, 4, 2)
    patches = patchify(latents, 2)
    assert patches.shape == (1, 1, 4, 8)
    # The second patch is rows 0-1, columns 2-3: channel 0 first.
    np.testing.assert_array_equal(patches[0, 0, 1], [4, 6, 12, 14, 5, 7, 13, 15])
    np.testing.assert_array_equal(unpatchify(patches, (1, 2, 2), 2), latents)


def test_patches_in_time_hold_channel_then_frame_then_row_then_column():
    latents = jnp.arange(4 * 2 * 2.0 * 2).reshape(1, 1, 4, 2, 2, 2)
    patches = patchify(latents, 2, 2)
    assert patches.shape == (1, 1, 2, 16)
    # The second patch is frames 2-3: all of channel 0 (even numbers) comes first.
    np.testing.assert_array_equal(patches[0, 0, 1], [*range(16, 32, 2), *range(17, 32, 2)])
    np.testing.assert_array_equal(unpatchify(patches, (2, 1, 1), 2, 2), latents)


def test_latents_that_do_not_divide_are_refused():
    latents, text, timesteps = make_inputs()
    with pytest.raises(ValueError, match="3x4x5 .* do not divide into patches of 1x2x2"):
        make_model()(latents[:, :, :, :, :5], text, timesteps)


def test_unknown_mask_is_refused_before_any_parameter_is_made():
    with pytest.raises(ValueError, match="unknown attention mask 'half'"):
        TransformerConfig(**FIELDS, mask="half")
