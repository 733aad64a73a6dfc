from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.data.loader import Batch
from m2dit_jax.data.shapes import ShapesSource
from m2dit_jax.models.placement import ONE_DEVICE
from m2dit_jax.training.distillation import make_teach, small_steps_of, step_config
from m2dit_jax.training.step import draw_noisy_batch, loss_and_gradients, model_for_computing

STORIES = 4
DISTILL = {
    "distill.teacher": "runs/base",
    "distill.steps": 2,
    "distill.teacher_steps": 4,
    "distill.guidance_scale": 2.0,
    "sample.guidance_scale": 1.0,
    "train.caption_dropout": 0.0,
    "train.given_probability": 0.5,
}


@pytest.fixture(scope="module", params=["v", "x0"])
def recipe(request, make_tiny_config):
    config = make_tiny_config()
    config.update_from_flattened_dict(DISTILL | {"diffusion.prediction": request.param})
    return build_recipe(config)


def _params(recipe, seed):
    """Not quite an initialisation, in which much is zero."""
    params = jax.jit(recipe.init_params)(jax.random.key(seed))
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)


@pytest.fixture(scope="module")
def teacher(recipe):
    return _params(recipe, 1)


@pytest.fixture(scope="module")
def student(recipe):
    return _params(recipe, 2)


@pytest.fixture(scope="module")
def batch(recipe):
    """As a training step draws it."""
    data = recipe.config.data
    source = ShapesSource(0, data.scenes, data.frames, data.size, False, STORIES)
    captions = [recipe.tokenize(source[i]["captions"]) for i in range(STORIES)]
    batch = Batch(
        jnp.asarray(np.stack([source[i]["video"] for i in range(STORIES)])),
        jnp.asarray(np.stack(captions)),
    )
    config = replace(
        step_config(recipe), timesteps=replace(step_config(recipe).timesteps, stratified=True)
    )
    return draw_noisy_batch(jax.random.key(3), batch, _empty(recipe), recipe.schedule, config)


def _empty(recipe):
    return jnp.asarray(recipe.tokenize([""])[0])


def test_the_timesteps_of_the_small_steps_are_drawn(recipe, batch):
    assert small_steps_of(recipe).timesteps.tolist() == [999, 749, 499, 249]
    drawn = np.asarray(batch.timesteps).max(axis=1)
    np.testing.assert_array_equal(np.sort(drawn), [249, 499, 749, 999])
    assert np.asarray(batch.given).any()


def test_the_target_is_the_guided_teachers_where_its_small_step_is_the_last(
    recipe, batch, teacher, student
):
    found = jax.jit(make_teach(recipe, _empty(recipe)))(teacher, student, batch)
    model = model_for_computing(recipe.graphdef, teacher, "float32", ONE_DEVICE)

    def predict(prompts):
        return model(batch.noisy_latents, model.encode_text(prompts), batch.timesteps, batch.given)

    empty = jnp.broadcast_to(_empty(recipe), batch.prompts.shape)
    uncond, cond = predict(empty), predict(batch.prompts)
    expected = uncond + 2.0 * (cond - uncond)
    last = np.asarray(batch.timesteps == 749) | np.asarray(batch.timesteps == 249)
    np.testing.assert_allclose(found[last], expected[last], atol=2e-4)
    others = ~last & ~np.asarray(batch.given)
    assert np.abs(found[others] - expected[others]).max() > 0.01, "there the student has its say"


def test_gradients_are_those_of_a_target_that_is_given(recipe, batch, teacher, student):
    teach = make_teach(recipe, _empty(recipe))
    parts = 2 if recipe.schedule.prediction == "x0" else 1
    config = replace(step_config(recipe), accumulate=parts)

    @jax.jit
    def both(teacher, student, batch):
        target = jax.lax.stop_gradient(teach(teacher, student, batch))

        def distilled(student, teacher):
            return loss_and_gradients(
                recipe.graphdef, student, batch, config, target=lambda *x: teach(teacher, *x)
            )

        fixed = loss_and_gradients(recipe.graphdef, student, batch._replace(target=target), config)
        of_teacher = jax.grad(lambda t: distilled(student, t)[0])(teacher)
        return distilled(student, teacher), fixed, of_teacher

    found, expected, of_teacher = both(teacher, student, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )
    assert any(np.asarray(x).any() for x in jax.tree.leaves(found[1]))
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(of_teacher))
