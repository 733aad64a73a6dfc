"""Positions of the tokens of a joint sequence: added tables, numbers of scenes, rotation."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from m2dit_jax.models.cogvideox.grid import Grid
from m2dit_jax.models.cogvideox.layers import Rope, sinusoidal_embedding
from m2dit_jax.models.cogvideox.rope import rope_table
from m2dit_jax.models.cogvideox.sincos import sincos_table, stretched_sincos_table
from m2dit_jax.models.cogvideox.transformer_config import TransformerConfig
from m2dit_jax.models.layout import Layout


def added_positions(
    config: TransformerConfig,
    layout: Layout,
    grid: Grid,
    places: Int[np.ndarray, " S"],
    story_scenes: int,
) -> Float[Array, "L D"]:
    """The table over the joint sequence: zeros for text and padding."""
    scales = config.spatial_scale, config.temporal_scale
    if config.base_grid is None:
        scene = sincos_table(grid, config.width, *scales)
        table = jnp.concatenate([scene[:count] for count in layout.video_counts])
    else:
        table = stretched_sincos_table(config.base_grid, story_scenes, grid, config.width, *scales)
        table = consecutive(table, layout, places)
    return jnp.pad(table, ((layout.text_tokens, layout.padding), (0, 0)))


def scene_positions(
    config: TransformerConfig, layout: Layout, places: Int[np.ndarray, " S"]
) -> Float[Array, "P D"]:
    """Sines and cosines of each scene's place in its story; zeros for global text."""
    table = sinusoidal_embedding(jnp.asarray(places)[None], config.width)[0]
    return jnp.pad(table, ((layout.scenes - len(places), 0), (0, 0)))


def joint_rope(
    config: TransformerConfig,
    layout: Layout,
    grid: Grid,
    places: Int[np.ndarray, " S"],
    story_scenes: int,
) -> Rope:
    """The table over the joint sequence: text and padding are not turned (cos 1, sin 0)."""
    base = None if config.base_grid is None else config.base_grid[1:]
    all_scenes = (story_scenes * grid[0], *grid[1:])
    cos, sin = (
        consecutive(table.reshape(story_scenes, -1, config.head_dim), layout, places)
        for table in rope_table(all_scenes, config.head_dim, base)
    )
    around = ((layout.text_tokens, layout.padding), (0, 0))
    return jnp.pad(cos, around, constant_values=1), jnp.pad(sin, around)


def consecutive(
    table: Float[Array, "R V D"], layout: Layout, places: Int[np.ndarray, " S"]
) -> Float[Array, "M D"]:
    """The rows of a story's table that its scenes have; shorter scenes move up to each other."""
    if layout.equal_scenes:
        return table[places].reshape(-1, table.shape[2])
    return table.reshape(-1, table.shape[2])[: sum(layout.video_counts)]
