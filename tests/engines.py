"""Engines of tiny models that were never trained."""

import jax

from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.pipeline.load import of_pixels_run


def random_params(recipe, scale=0.3):
    """Parameters that are not the initialisation's, which predicts zero whatever the prompt."""
    leaves, tree = jax.tree.flatten(recipe.init_params(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def random_engine(config, scale=0.3):
    """A pipeline of a run on pixels with such parameters."""
    recipe = build_recipe(config)
    params = random_params(recipe, scale)
    return of_pixels_run(recipe, lambda: params, step=0)
