"""Wan's transformer (2.1 and 2.2, text to video) over all scenes of a storyboard."""

import math
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, Num

from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.cogvideox.grid import Grid
from m2dit_jax.models.cogvideox.layers import modulate
from m2dit_jax.models.cogvideox.patches import join_patches, patch_grid, patchify, split_video
from m2dit_jax.models.layout import Layout, check_texts
from m2dit_jax.models.masks import block_masks, check_constant, check_given
from m2dit_jax.models.placement import ONE_DEVICE, Placement
from m2dit_jax.models.stacked import over_layers, with_remat
from m2dit_jax.models.wan.layers import (
    CrossAttention,
    FeedForward,
    Rope,
    SelfAttention,
    TimeEmbedding,
)
from m2dit_jax.models.wan.rope import rope_table
from m2dit_jax.models.wan.transformer_config import WanConfig

Tokens = Float[Array, "B L D"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("text", "time_embed", "modulation", "rope", "given"),
    meta_fields=("layout", "grid", "times"),
)
@dataclass(frozen=True)
class Story:
    """The input of all blocks beside tokens; `grid` counts the patches of the longest scene.

    `layout` is that of the video, without text; `times` says which tokens each timestep is of, as
    if it were that of a scene.
    """

    text: Float[Array, "B T D"]
    time_embed: Float[Array, "B N D"]
    modulation: Float[Array, "B N M"]
    rope: Rope
    layout: Layout
    grid: Grid
    times: Layout
    given: Bool[Array, "B P"] | None = None


class WanBlock(nnx.Module):
    """Self-attention and feed-forward, modulated by the timestep; between them cross-attention."""

    def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
        width, heads, eps = config.width, config.heads, config.norm_eps
        self.implementation = config.attention
        self.modulation = _modulation_table(6, width, rngs)
        self.norm1 = _plain_norm(width, eps, rngs)
        self.attention = SelfAttention(width, heads, eps, rngs=rngs)
        norm2 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.norm2 = norm2 if config.cross_norm else None
        self.cross_attention = CrossAttention(width, heads, eps, rngs=rngs)
        self.norm3 = _plain_norm(width, eps, rngs)
        self.mlp = FeedForward(width, config.hidden, width, rngs=rngs)

    def __call__(
        self,
        tokens: Tokens,
        story: Story,
        mask: str,
        placement: Placement = ONE_DEVICE,
        cached: KeyValues | None = None,
    ) -> Tokens:
        layout, how = story.layout, self.implementation
        shifts = self._shifts(story, placement)
        modulated = _modulated(self.norm1, tokens, *shifts[:2])
        where = layout, story.rope, mask, how, placement, story.given
        attended = self.attention(modulated, *where, cached)
        tokens = _add(tokens, checkpoint_name(attended, "attention"), shifts[2])
        asking = tokens
        if self.norm2 is not None:
            asking = self.norm2(tokens.astype(jnp.float32)).astype(tokens.dtype)
        attended = self.cross_attention(asking, story.text, layout, mask, how, placement)
        tokens = tokens + checkpoint_name(attended, "cross_attention")
        fed_forward = self.mlp(_modulated(self.norm3, tokens, *shifts[3:5]))
        tokens = _add(tokens, checkpoint_name(fed_forward, "mlp"), shifts[5])
        return checkpoint_name(tokens, "block")

    def keep(self, tokens: Tokens, story: Story, placement: Placement = ONE_DEVICE) -> KeyValues:
        """Self-attention's keys and values of the video that the block is called with."""
        modulated = _modulated(self.norm1, tokens, *self._shifts(story, placement)[:2])
        return placement.keep(*self.attention.turned_key_value(modulated, story.rope), story.layout)

    def _shifts(self, story: Story, placement: Placement) -> list[Tokens]:
        """Shift, scale and gate of self-attention, then of the feed-forward part, by token."""
        of_scenes = story.modulation.reshape(*story.modulation.shape[:2], 6, -1)
        of_scenes = of_scenes + self.modulation[...].astype(jnp.float32)
        return [placement.spread(x, x, story.times) for x in jnp.moveaxis(of_scenes, 2, 0)]


class WanTransformer(nnx.Module):
    """Predicts noise - latents for all scenes of a storyboard jointly.

    The parameters of the blocks are stacked along a leading layer axis, whether the blocks are
    run by `scan` (quick to compile) or unrolled.
    """

    def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.block_masks = block_masks(config.mask, config.layers)
        width = config.width
        self.patch_embed = nnx.Linear(config.patch_values, width, rngs=rngs)
        self.text_embed = FeedForward(config.text_dim, width, width, rngs=rngs)
        self.time_embedding = TimeEmbedding(config.time_dim, width, rngs=rngs)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap
        def make_blocks(rngs: nnx.Rngs) -> WanBlock:
            return WanBlock(config, rngs=rngs)

        self.blocks = make_blocks(rngs)
        self.norm_out = _plain_norm(width, config.norm_eps, rngs)
        self.modulation_out = _modulation_table(2, width, rngs)
        zeros = nnx.initializers.zeros_init()
        self.proj_out = nnx.Linear(width, config.patch_values, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B P T E"],
        timesteps: Num[Array, "B S *frames"],
        given: Bool[Array, "B S"] | None = None,
        placement: Placement = ONE_DEVICE,
        frames: tuple[int, ...] | None = None,
    ) -> Float[Array, "B S F H W C"]:
        """The flow of every scene; `timesteps` is 0 for scenes that are `given`.

        There may be one for each latent frame instead, of which a patch has that of its first.

        Scenes of different lengths are filled up to the longest, and `frames` counts those that
        are real; the others are left out, and their flow is 0. If there is one text more than there
        are scenes, the first is global: all video sees it.

        Raises ValueError if the latents' frames, rows or columns do not divide into patches, for
        other numbers of texts, and under the causal mask without `given`, which other masks ignore.
        """
        tokens, story = self.begin(latents, text_embeds, timesteps, given, placement, frames)
        tokens = self._run_blocks(tokens, story, placement)
        return self.end(tokens, story, placement).astype(latents.dtype)

    def begin(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B P T E"],
        timesteps: Num[Array, "B S *frames"],
        given: Bool[Array, "B S"] | None = None,
        placement: Placement = ONE_DEVICE,
        frames: tuple[int, ...] | None = None,
    ) -> tuple[Tokens, Story]:
        """The input of the first block, of what the model is called with."""
        check_given(self.config.mask, given)
        scenes, texts = latents.shape[1], text_embeds.shape[1]
        check_texts(scenes, texts)
        if texts > scenes:  # the global text's place has no tokens whose timestep would matter
            if timesteps.ndim == 2:
                timesteps = jnp.pad(timesteps, ((0, 0), (1, 0)))
            if given is not None:
                given = jnp.pad(given, ((0, 0), (1, 0)), constant_values=True)
        places = np.arange(scenes)
        tokens, story = self._embed(latents, text_embeds, timesteps, placement, places, frames)
        return tokens, replace(story, given=given)

    def run_layer(self, mask: str, tokens: Tokens, embedded: Story, placement: Placement) -> Tokens:
        """One block's result, where `blocks` has the parameters of that block alone.

        `mask` is the block's of `block_masks`. With `begin` and `end` the model is run block by
        block.
        """
        return self.blocks(tokens, embedded, mask, placement)

    @property
    def mask(self) -> str:
        """The attention mask, one of `masks.MASKS`."""
        return self.config.mask

    def cache_given(
        self,
        latents: Float[Array, "B G F H W C"],
        text_embeds: Float[Array, "B G T E"],
        given: tuple[bool, ...],
        placement: Placement = ONE_DEVICE,
    ) -> KeyValues:
        """Self-attention's keys and values, in all layers, of a story's given scenes.

        There are none of cross-attention: no other scene sees their text. `latents` and
        `text_embeds` are those of the given scenes alone; `given` says which of the story's scenes
        they are. Raises ValueError unless the mask is causal: under others it is not constant.
        """
        check_constant(self.config.mask)
        timesteps = jnp.zeros(latents.shape[:2], jnp.int32)
        places = np.flatnonzero(given)
        tokens, story = self._embed(latents, text_embeds, timesteps, placement, places)
        story = replace(story, given=jnp.ones(latents.shape[:2], bool))
        block_def, stacked = nnx.split(self.blocks)

        def run_block(mask, tokens, params):
            block = nnx.merge(block_def, placement.gather_params(params))
            kept = block.keep(tokens, story, placement)
            tokens = block(tokens, story, mask, placement)
            return placement.shard_tokens(tokens), kept

        return over_layers(run_block, self.block_masks, self.config.scan, tokens, stacked)[1]

    def predict_cached(
        self,
        latents: Float[Array, "B G F H W C"],
        text_embeds: Float[Array, "B G T E"],
        timesteps: Num[Array, "B G *frames"],
        cached: KeyValues,
        given: tuple[bool, ...],
        placement: Placement = ONE_DEVICE,
    ) -> Float[Array, "B G F H W C"]:
        """The flow of the generated scenes, the others being in the cache (`cache_given`).

        All but `given`, which says which of the story's scenes are in the cache, is of the
        generated scenes alone. The same as `__call__` with the whole story.
        """
        places = np.flatnonzero(np.logical_not(given))
        tokens, story = self._embed(latents, text_embeds, timesteps, placement, places)
        tokens = self._run_blocks(tokens, story, placement, cached)
        return self.end(tokens, story, placement).astype(latents.dtype)

    def _embed(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B P T E"],
        timesteps: Num[Array, "B N *frames"],
        placement: Placement,
        places: Int[np.ndarray, " S"],
        frames_of_scenes: tuple[int, ...] | None = None,
    ) -> tuple[Tokens, Story]:
        """Scenes that stand at some `places` of a story; of different lengths they must be all."""
        patch, patch_t = self.config.patch_size, self.config.patch_size_t
        dtype = self.proj_out.kernel.dtype
        lengths = frames_of_scenes or (latents.shape[2],) * latents.shape[1]
        grid = patch_grid(latents.shape, lengths, patch, patch_t)
        texts = text_embeds.shape[1]
        has_global = texts > len(lengths)
        counts = tuple(length // patch_t * math.prod(grid[1:]) for length in lengths)
        layout = Layout(
            texts,
            0,
            (0,) * has_global + counts,
            placement.padding(sum(counts)),
            has_global,
            frame=math.prod(grid[1:]),
        )
        patches = patchify(latents.astype(dtype), patch, patch_t)
        no_text = jnp.zeros((len(latents), texts, 0, patches.shape[-1]), dtype)
        patches = join_patches(layout, no_text, patches)
        tokens = self.patch_embed(placement.shard_tokens(patches))
        tokens = checkpoint_name(tokens, "patch_embed")
        text = self.text_embed(placement.shard_stories(text_embeds.astype(dtype)))
        text = checkpoint_name(text.reshape(len(text), -1, text.shape[-1]), "text_embed")
        times = layout
        if timesteps.ndim == 3:
            scenes = [timesteps[:, i, :length:patch_t] for i, length in enumerate(lengths)]
            timesteps = jnp.concatenate(scenes, axis=1)
            times = Layout(timesteps.shape[1], 0, layout.frame, layout.padding)
        time_embed, modulation = map(placement.shard_stories, self.time_embedding(timesteps))
        rope = self._rope(layout, grid, places, lengths)
        return tokens, Story(text, time_embed, modulation, rope, layout, grid, times)

    def _rope(
        self, layout: Layout, grid: Grid, places: Int[np.ndarray, " S"], lengths: tuple[int, ...]
    ) -> Rope:
        """The table of all tokens; padding is not turned. Time runs on through the scenes."""
        if len(set(lengths)) == 1:
            times = (places[:, None] * grid[0] + np.arange(grid[0])).reshape(-1)
        else:
            times = np.arange(sum(lengths) // self.config.patch_size_t)
        cos, sin = rope_table(times, *grid[1:], self.config.head_dim)
        around = ((0, layout.padding), (0, 0))
        return jnp.pad(cos, around, constant_values=1), jnp.pad(sin, around)

    def end(
        self, tokens: Tokens, embedded: Story, placement: Placement
    ) -> Float[Array, "B S F H W C"]:
        """The flow, of the last block's result."""
        layout, grid, times = embedded.layout, embedded.grid, embedded.times
        of_scenes = self.modulation_out[...].astype(jnp.float32) + embedded.time_embed[:, :, None]
        shift, scale = (placement.spread(x, x, times) for x in jnp.moveaxis(of_scenes, 2, 0))
        patches = self.proj_out(_modulated(self.norm_out, tokens, shift, scale))
        patches = placement.shard_stories(checkpoint_name(patches, "proj_out"))
        video = split_video(layout, patches, math.prod(grid))
        return _unpatchify(video, grid, self.config.patch_size, self.config.patch_size_t)

    def _run_blocks(
        self,
        tokens: Tokens,
        story: Story,
        placement: Placement,
        cached: KeyValues | None = None,
    ) -> Tokens:
        block_def, stacked = nnx.split(self.blocks)

        def run_block(mask, tokens, layer):
            params, cached = layer

            def block(params, tokens, _modulation, _rope, placement):  # they are in `story`
                this_layer = nnx.merge(block_def, params)
                return this_layer(tokens, story, mask, placement, cached)

            out = placement.run_block(block, params, tokens, story.modulation, story.rope)
            return out, None

        config = self.config
        run_layer = with_remat(run_block, config.remat, config.scan)
        return over_layers(run_layer, self.block_masks, config.scan, tokens, (stacked, cached))[0]


def _modulation_table(rows: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
    """Learnt shifts, scales and gates, to which those of the timestep are added."""
    return nnx.Param(jax.random.normal(rngs.params(), (1, rows, width)) * width**-0.5)


def _plain_norm(width: int, eps: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=eps, use_bias=False, use_scale=False, rngs=rngs)


def _modulated(norm: nnx.LayerNorm, tokens: Tokens, shift: Tokens, scale: Tokens) -> Tokens:
    return modulate(norm(tokens.astype(jnp.float32)), shift, scale).astype(tokens.dtype)


def _add(tokens: Tokens, change: Tokens, gate: Tokens) -> Tokens:
    return (tokens + change * gate).astype(tokens.dtype)


def _unpatchify(
    tokens: Float[Array, "B S V P"], grid: Grid, patch: int, patch_t: int
) -> Float[Array, "B S F H W C"]:
    """Videos of patches whose values are in the order frame, row, column, channel."""
    batch, scenes = tokens.shape[:2]
    time, rows, columns = grid
    x = tokens.reshape(batch, scenes, time, rows, columns, patch_t, patch, patch, -1)
    x = x.transpose(0, 1, 2, 5, 3, 6, 4, 7, 8)
    return x.reshape(batch, scenes, time * patch_t, rows * patch, columns * patch, -1)
