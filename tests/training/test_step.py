from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import wan_a14b
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.config.schema import Config
from m2dit_jax.data.loader import Batch, EncodedBatch
from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.loss import weighted_error
from m2dit_jax.training.optimizer import make_optimizer
from m2dit_jax.training.state import RunningMetrics, TrainState
from m2dit_jax.training.step import (
    StepConfig,
    draw_noisy_batch,
    loss_and_gradients,
    make_train_step,
    real_frames_only,
)

STORIES = 4


@pytest.fixture
def recipe(tiny_config):
    tiny_config.train.batch_size = STORIES
    return build_recipe(tiny_config)


@pytest.fixture
def params(recipe):
    """Not quite the initialisation, in which much is zero and so has no gradient."""
    params = jax.jit(recipe.init_params)(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)


@pytest.fixture
def empty_prompt(recipe):
    return jnp.asarray(recipe.tokenize([""])[0])


@pytest.fixture
def batch(recipe):
    data = recipe.config.data
    source = ShapesSource(0, data.scenes, data.frames, data.size, False, STORIES)
    captions = [recipe.tokenize(source[i]["captions"]) for i in range(STORIES)]
    return Batch(
        jnp.asarray(np.stack([source[i]["video"] for i in range(STORIES)])),
        jnp.asarray(np.stack(captions)),
    )


def _loss_and_gradients(recipe, params, noisy, parts=1, dtype="float32"):
    config = replace(StepConfig.from_config(recipe.config), accumulate=parts, compute_dtype=dtype)
    compute = jax.jit(loss_and_gradients, static_argnums=(0, 3))
    return compute(recipe.graphdef, params, noisy, config)


def _optimizer(recipe):
    return make_optimizer(recipe.config.train, recipe.config.trains_text_encoder)


def _draw(recipe, batch, empty_prompt, seed=0, **changes):
    config = replace(StepConfig.from_config(recipe.config), **changes)
    return draw_noisy_batch(jax.random.key(seed), batch, empty_prompt, recipe.schedule, config)


def test_given_scenes_are_clean_at_timestep_0_and_have_no_weight(recipe, batch, empty_prompt):
    noisy = _draw(recipe, batch, empty_prompt, given_probability=1.0, given_scenes="all_but_last")
    clean = batch.video.astype(jnp.float32) / 127.5 - 1
    np.testing.assert_array_equal(noisy.timesteps[:, 0], 0)
    np.testing.assert_array_equal(noisy.weights[:, 0], 0)
    np.testing.assert_allclose(noisy.noisy_latents[:, 0], clean[:, 0], atol=1e-6)
    assert (noisy.weights[:, 1] > 0).all()
    assert not np.allclose(noisy.noisy_latents[:, 1], clean[:, 1], atol=0.1)


def test_pictures_before_a_story_are_always_given(recipe, batch, empty_prompt):
    longer = Batch(
        jnp.concatenate([batch.video[:, :1], batch.video], 1),
        jnp.concatenate([batch.token_ids[:, :1], batch.token_ids], 1),
    )
    changes = {"given_probability": 0.5, "image_probability": 0.5}
    noisy = _draw(recipe, longer, empty_prompt, **changes)
    assert noisy.given[:, 0].all() and not noisy.timesteps[:, 0].any()
    assert not noisy.weights[:, 0].any()
    # A batch without them is what it was, and so are the scenes beside a picture.
    without = _draw(recipe, batch, empty_prompt, **changes)
    np.testing.assert_array_equal(
        without.given, _draw(recipe, batch, empty_prompt, given_probability=0.5).given
    )
    np.testing.assert_array_equal(noisy.given[:, 1:], without.given)


def test_given_scenes_get_slight_noise_and_all_else_stays_as_it_was(recipe, batch, empty_prompt):
    given = {"given_probability": 1.0, "given_scenes": "all_but_last"}
    plain = _draw(recipe, batch, empty_prompt, **given)
    noisy = _draw(recipe, batch, empty_prompt, given_noise=50, **given)
    clean, slight = plain.noisy_latents[:, 0], noisy.noisy_latents[:, 0]
    largest = float(np.sqrt(1 - recipe.schedule.alphas_cumprod()[50]))
    by_story = np.asarray(slight - clean).reshape(STORIES, -1).std(axis=1)
    assert (by_story >= 0).all() and (by_story < 1.2 * largest).all()
    assert len(np.unique(by_story)) > 1, "a timestep is drawn for each"
    same = noisy._replace(noisy_latents=noisy.noisy_latents.at[:, 0].set(clean))
    jax.tree.map(np.testing.assert_array_equal, same, plain)


def test_stories_can_weigh_the_same_and_timesteps_by_their_noise(recipe, batch, empty_prompt):
    by_story = _draw(recipe, batch, empty_prompt, 3, given_probability=0.5, loss_weighting="story")
    assert 0 < by_story.given.sum() < STORIES
    of_v = by_story.weights / recipe.schedule.v_error_weights(by_story.timesteps)
    np.testing.assert_allclose(of_v.sum(axis=1), 1 / STORIES, rtol=1e-6)
    weighted = _draw(recipe, batch, empty_prompt, 3, given_probability=0.5, min_snr_gamma=5.0)
    plain = _draw(recipe, batch, empty_prompt, 3, given_probability=0.5)
    alphas = recipe.schedule.alphas_cumprod()[np.asarray(plain.timesteps)]
    expected = np.asarray(plain.weights) * np.minimum(alphas, 5 * (1 - alphas))
    np.testing.assert_allclose(weighted.weights, expected, rtol=1e-4, atol=1e-8)


def test_what_is_predicted_for_given_scenes_counts_for_nothing(recipe, batch, empty_prompt, params):
    noisy = _draw(recipe, batch, empty_prompt, given_probability=1.0, given_scenes="all_but_last")
    elsewhere = noisy._replace(target=noisy.target.at[:, 0].add(7.0))
    expected = _loss_and_gradients(recipe, params, noisy)
    actual = _loss_and_gradients(recipe, params, elsewhere)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_the_scenes_of_a_story_share_their_timestep(recipe, batch, empty_prompt):
    noisy = _draw(recipe, batch, empty_prompt, given_probability=0.0)
    np.testing.assert_array_equal(noisy.timesteps, np.broadcast_to(noisy.timesteps[:, :1], (4, 2)))
    assert len(np.unique(noisy.timesteps)) > 1


def test_captions_are_dropped_for_whole_stories(recipe, batch, empty_prompt):
    for share, dropped in ((0.0, False), (1.0, True)):
        noisy = _draw(recipe, batch, empty_prompt, caption_dropout=share)
        expected = np.broadcast_to(empty_prompt, batch.token_ids.shape)
        np.testing.assert_array_equal(noisy.prompts, expected if dropped else batch.token_ids)
    drawn = set()
    for seed in range(10):
        noisy = _draw(recipe, batch, empty_prompt, seed, caption_dropout=0.5)
        is_empty = (noisy.prompts == empty_prompt).all(-1)
        np.testing.assert_array_equal(is_empty[:, 0], is_empty[:, 1])
        drawn |= set(is_empty[:, 0].tolist())
    assert drawn == {False, True}


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_undivided_batch(parts, recipe, batch, empty_prompt, params):
    # Unequal weights, as given scenes have them, would show a mean of means.
    noisy = _draw(recipe, batch, empty_prompt, seed=3, given_probability=0.5)
    assert len(np.unique(noisy.weights)) > 1
    expected = _loss_and_gradients(recipe, params, noisy)
    actual = _loss_and_gradients(recipe, params, noisy, parts)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), actual, expected
    )


def test_a_batch_that_does_not_divide_is_refused(recipe, batch, empty_prompt, params):
    noisy = _draw(recipe, batch, empty_prompt)
    with pytest.raises(ValueError, match="batch of 4 stories cannot be accumulated in 3 parts"):
        _loss_and_gradients(recipe, params, noisy, 3)


def test_in_bfloat16_loss_and_gradients_are_nearly_those_in_float32(
    recipe, batch, empty_prompt, params
):
    noisy = _draw(recipe, batch, empty_prompt, given_probability=0.0)
    loss, expected = _loss_and_gradients(recipe, params, noisy)
    rounded_loss, rounded = _loss_and_gradients(recipe, params, noisy, dtype="bfloat16")
    assert rounded_loss.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(rounded)} == {jnp.dtype(jnp.float32)}
    # Seen over four draws: loss 0.00002 to 0.0002 apart, gradients 0.007 to 0.008.
    assert 0 < abs(rounded_loss - loss) / loss < 0.002
    apart = optax.tree.norm(optax.tree.sub(rounded, expected)) / optax.tree.norm(expected)
    assert 0 < apart < 0.015


def test_in_bfloat16_the_parts_of_a_batch_add_up_in_float32(recipe, batch, empty_prompt, params):
    noisy = _draw(recipe, batch, empty_prompt, given_probability=0.0)
    _, whole = _loss_and_gradients(recipe, params, noisy, 1, "bfloat16")
    _, parts = _loss_and_gradients(recipe, params, noisy, 4, "bfloat16")
    assert {x.dtype for x in jax.tree.leaves(parts)} == {jnp.dtype(jnp.float32)}
    apart = optax.tree.norm(optax.tree.sub(parts, whole)) / optax.tree.norm(whole)
    assert apart < 0.01


@pytest.fixture(scope="module")
def encoded(make_encoded_config):
    """Recipe, batch and the embedding of the empty prompt."""
    recipe = build_recipe(make_encoded_config())
    rng = np.random.default_rng(0)
    shape = (STORIES, 2, 2, 4, 4, 2)
    batch = EncodedBatch(
        mean=jnp.asarray(rng.normal(size=shape), jnp.bfloat16),
        logvar=jnp.full(shape, -30.0, jnp.bfloat16),  # draws are all but the mean
        text_embeds=jnp.asarray(rng.normal(size=(STORIES, 2, 8, 6)), jnp.bfloat16),
    )
    return recipe, batch, jnp.asarray(rng.normal(size=(8, 6)), jnp.bfloat16)


def test_encoded_stories_are_noised_and_their_captions_dropped(encoded):
    recipe, batch, empty_prompt = encoded
    noisy = _draw(recipe, batch, empty_prompt, given_probability=1.0, caption_dropout=0.0)
    assert noisy.noisy_latents.dtype == noisy.target.dtype == jnp.float32
    clean = np.asarray(batch.mean, np.float32)
    np.testing.assert_allclose(noisy.noisy_latents[:, 0], clean[:, 0], atol=1e-5)
    assert not np.allclose(noisy.noisy_latents[:, 1], clean[:, 1], atol=0.1)
    np.testing.assert_array_equal(noisy.prompts, batch.text_embeds)
    noisy = _draw(recipe, batch, empty_prompt, caption_dropout=1.0)
    np.testing.assert_array_equal(
        noisy.prompts, np.broadcast_to(empty_prompt, batch.text_embeds.shape)
    )


def test_latents_are_drawn_from_the_posterior_and_scaled(encoded):
    recipe, batch, empty_prompt = encoded
    batch = batch._replace(logvar=jnp.full_like(batch.logvar, np.log(0.25)))
    config = replace(StepConfig.from_config(recipe.config), given_probability=1.0)

    def given(seed, scale):
        noisy = draw_noisy_batch(
            jax.random.key(seed), batch, empty_prompt, recipe.schedule, config, scale
        )
        return np.asarray(noisy.noisy_latents[:, 0], np.float64)

    mean = np.asarray(batch.mean, np.float64)[:, 0]
    noise = given(0, 1.0) - mean
    assert abs(noise.std() - 0.5) < 0.1 and abs(noise.mean()) < 0.1
    np.testing.assert_allclose(given(0, 0.7), 0.7 * given(0, 1.0), atol=1e-5)
    assert np.abs(given(0, 1.0) - given(1, 1.0)).max() > 0.1


def test_captions_of_single_scenes_are_dropped(recipe, batch, empty_prompt):
    config = replace(
        StepConfig.from_config(recipe.config), caption_dropout=0.0, scene_caption_dropout=0.5
    )
    dropped = []
    for seed in range(20):
        key = jax.random.key(seed)
        noisy = draw_noisy_batch(key, batch, empty_prompt, recipe.schedule, config)
        dropped.append(np.all(np.asarray(noisy.prompts) == empty_prompt, axis=-1))
    dropped = np.concatenate(dropped)
    assert 0.35 < dropped.mean() < 0.65
    assert (dropped.any(axis=1) & ~dropped.all(axis=1)).any()  # some scenes of a story only


@pytest.mark.slow
def test_training_on_encoded_stories_in_bfloat16_keeps_float32_weights(encoded):
    recipe, batch, empty_prompt = encoded
    step = jax.jit(
        make_train_step(
            recipe.graphdef,
            _optimizer(recipe),
            recipe.schedule,
            empty_prompt,
            StepConfig.from_config(recipe.config),
        )
    )
    params = recipe.init_params(jax.random.key(0))
    assert set(params) == {"transformer"}
    start = state = TrainState.create(params, _optimizer(recipe), recipe.config.train.ema_decay)
    for _ in range(30):
        state = step(state, jax.random.key(0), batch)
    assert state.ema is None and state.averaged is state.params
    for leaf in jax.tree.leaves((state.params, state.metrics.loss)):
        assert leaf.dtype == jnp.float32
    noisy = _draw(recipe, batch, empty_prompt, seed=5)
    before, _ = _loss_and_gradients(recipe, start.params, noisy, dtype="bfloat16")
    after, _ = _loss_and_gradients(recipe, state.params, noisy, dtype="bfloat16")
    assert after < before


@pytest.fixture(scope="module", params=["adamw", "muon"])
def training(request, make_tiny_config):
    """Recipe, first state and compiled step; with Muon, the text encoder is frozen."""
    config = make_tiny_config()
    config.train.optimizer = request.param
    config.train.learning_rate, config.train.steps = 1e-2, 100
    config.text_encoder.trained = request.param == "adamw"
    recipe = build_recipe(config)
    state = jax.jit(
        lambda: TrainState.create(
            recipe.init_params(jax.random.key(0)), _optimizer(recipe), config.train.ema_decay
        )
    )()
    step = make_train_step(
        recipe.graphdef,
        _optimizer(recipe),
        recipe.schedule,
        recipe.tokenize([""])[0],
        StepConfig.from_config(recipe.config),
    )
    return recipe, state, jax.jit(step)


@pytest.mark.slow
def test_training_on_one_batch_reduces_its_loss(training, batch, empty_prompt):
    recipe, start, step = training
    noisy = _draw(recipe, batch, empty_prompt, seed=5, given_probability=0.0)
    before, _ = _loss_and_gradients(recipe, start.params, noisy)
    state = start
    for _ in range(40):
        state = step(state, jax.random.key(2), batch)
    after, _ = _loss_and_gradients(recipe, state.params, noisy)
    assert after < 0.8 * before
    assert state.step == state.metrics.steps == 40
    assert step._cache_size() == 1, "compiled again"


def test_only_a_frozen_text_encoder_stays_bitwise_the_same(training, batch):
    recipe, start, step = training
    state = start
    for _ in range(4):
        state = step(state, jax.random.key(0), batch)
    for after in (state.params, state.ema):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), after, start.params)
        is_trained = recipe.config.text_encoder.trained
        assert all(jax.tree.leaves(same["text_encoder"])) != is_trained
        assert not same["transformer"]["patch_embed"]["kernel"]


def test_every_step_draws_anew_and_the_same_step_the_same(training, batch):
    _, state, step = training

    def loss(number, seed):
        numbered = state._replace(step=jnp.int32(number))
        return float(step(numbered, jax.random.key(seed), batch).metrics.loss)

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


def test_steps_that_are_not_finite_are_left_out_of_the_sums():
    metrics = RunningMetrics.zero()
    firsts = []
    for step, loss in enumerate((1.0, np.inf, np.nan, 2.0, np.nan), start=1):
        metrics = metrics.add(jnp.int32(step), jnp.float32(loss), jnp.float32(1.0))
        firsts.append(int(metrics.first_bad_step))
    assert firsts == [-1, 2, 2, -1, 5]
    assert (metrics.loss, metrics.grad_norm, metrics.steps) == (3.0, 2.0, 2)


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(training, batch):
    recipe, start, step = training
    state = step(start, jax.random.key(0), batch)
    assert (state.step, state.updates) == (1, 1)
    gradients = jax.tree.map(jnp.ones_like, state.params)
    kernel = gradients["transformer"]["patch_embed"]["kernel"]
    gradients["transformer"]["patch_embed"]["kernel"] = kernel.at[0, 0].set(jnp.nan)
    skipped = state.updated(_optimizer(recipe), gradients, jnp.float32(1.0), 0.9)
    kept = ("params", "ema", "opt_state")
    for name in kept:
        before, after = getattr(state, name), getattr(skipped, name)
        jax.tree.map(np.testing.assert_array_equal, after, before)
    assert (skipped.step, skipped.updates, skipped.metrics.first_bad_step) == (2, 1, 2)
    # The next step goes on from there.
    following = step(skipped, jax.random.key(0), batch)
    assert (following.step, following.updates, following.metrics.first_bad_step) == (3, 2, -1)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(following.params))


def test_frames_that_fill_up_a_scene_count_nothing():
    target = jnp.ones((2, 2, 4, 1, 1, 3))
    real, share = real_frames_only(target, (4, 1))
    np.testing.assert_array_equal(share, [1, 0.25])
    np.testing.assert_array_equal(real[0, :, :, 0, 0, 0], [[1, 1, 1, 1], [1, 0, 0, 0]])
    weights = jnp.full((2, 2), 0.25) / share
    assert weighted_error(0 * real, real, weights) == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(
    expert=st.sampled_from(["high_noise", "low_noise"]),
    boundary=st.floats(0.01, 0.99),
    shift=st.floats(0.1, 20),
    log_snr=st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-20, 20), st.floats(0.1, 20)),
    stratified=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_an_expert_draws_its_own_timesteps_alone(
    expert, boundary, shift, log_snr, stratified, seed
):
    config = wan_a14b.get_config()
    config.diffusion.boundary, config.train.expert = boundary, expert
    config.train.timestep_shift, config.train.stratified = shift, stratified
    names = ("log_snr_share", "log_snr_mean", "log_snr_std")
    config.train.update(dict(zip(names, log_snr, strict=True)))
    draw = StepConfig.from_config(Config.from_dict(config)).timesteps
    drawn = draw.draw(jax.random.key(seed), 64, FlowSchedule(1000, 3.0, boundary=boundary))
    is_high = np.asarray(drawn) >= boundary * 1000
    assert (is_high if expert == "high_noise" else ~is_high).all()


def test_an_expert_of_all_timesteps_is_trained_as_a_model_of_one():
    config = wan_a14b.get_config()
    config.diffusion.boundary, config.train.expert = 1.0, "low_noise"
    expert = StepConfig.from_config(Config.from_dict(config))
    config.diffusion.boundary, config.train.expert = 0.0, ""
    assert expert == StepConfig.from_config(Config.from_dict(config))
