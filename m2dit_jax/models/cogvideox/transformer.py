"""M2DiT: the multi-scene diffusion transformer."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from m2dit_jax.models.attention.cached import KeyValues
from m2dit_jax.models.cogvideox.grid import Grid
from m2dit_jax.models.cogvideox.layers import (
    ExpertModulation,
    FeedForward,
    JointAttention,
    Rope,
    TimeEmbedding,
    modulate,
)
from m2dit_jax.models.cogvideox.patches import (
    join_patches,
    patch_grid,
    patchify,
    split_video,
    unpatchify,
)
from m2dit_jax.models.cogvideox.positions import (
    added_positions,
    joint_rope,
    scene_positions,
)
from m2dit_jax.models.cogvideox.transformer_config import TransformerConfig
from m2dit_jax.models.layout import Layout, check_texts
from m2dit_jax.models.masks import (
    block_masks,
    check_constant,
    check_given,
    depends_on_given,
)
from m2dit_jax.models.placement import ONE_DEVICE, Placement
from m2dit_jax.models.scene_lora import place_scenes
from m2dit_jax.models.stacked import over_layers, with_remat


class Block(nnx.Module):
    """One expert-adaLN transformer block of CogVideoX (arXiv 2408.06072, section 2.2)."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.modulation1 = ExpertModulation(config.time_dim, width, rngs=rngs)
        self.norm1 = nnx.LayerNorm(width, epsilon=config.norm_eps, rngs=rngs)
        self.attention = JointAttention(
            width, config.heads, config.mask, config.attention, rngs=rngs
        )
        self.modulation2 = ExpertModulation(config.time_dim, width, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=config.norm_eps, rngs=rngs)
        self.mlp = FeedForward(width, config.feed_forward_chunk, rngs=rngs)

    def __call__(
        self,
        tokens: Float[Array, "B L D"],
        time_embed: Float[Array, "B S E"],
        layout: Layout,
        rope: Rope,
        placement: Placement = ONE_DEVICE,
        given: Bool[Array, "B S"] | None = None,
        cached: KeyValues | None = None,
    ) -> Float[Array, "B L D"]:
        shift, scale, gate = self.modulation1(time_embed, layout, placement)
        modulated = modulate(self.norm1(tokens), shift, scale)
        attended = self.attention(modulated, layout, rope, placement, given, cached)
        tokens = tokens + gate * checkpoint_name(attended, "attention")
        shift, scale, gate = self.modulation2(time_embed, layout, placement)
        fed_forward = self.mlp(modulate(self.norm2(tokens), shift, scale))
        tokens = tokens + gate * checkpoint_name(fed_forward, "mlp")
        return checkpoint_name(tokens, "block")

    def keep(
        self,
        tokens: Float[Array, "B L D"],
        time_embed: Float[Array, "B S E"],
        layout: Layout,
        rope: Rope,
        placement: Placement = ONE_DEVICE,
    ) -> KeyValues:
        """Keys and values of the video that the block is called with."""
        shift, scale, _ = self.modulation1(time_embed, layout, placement)
        modulated = modulate(self.norm1(tokens), shift, scale)
        return placement.keep(*self.attention.keys_values(modulated, rope), layout)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Places:
    """The places of tokens in the joint sequence; `grid` counts the longest scene's patches."""

    layout: Layout
    grid: Grid


class Embedded(NamedTuple):
    """The input of all blocks beside tokens."""

    time_embed: Float[Array, "B S E"]
    rope: Rope
    places: Places
    given: Bool[Array, "B S"] | None = None

    @property
    def layout(self) -> Layout:
        """The layout of the joint sequence."""
        return self.places.layout


class M2DiT(nnx.Module):
    """Predicts v for all scenes of a storyboard jointly.

    The parameters of the blocks are stacked along a leading layer axis, whether the blocks are
    run by `scan` (quick to compile) or unrolled.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.block_masks = block_masks(config.mask, config.layers)
        width = config.width
        patch_values = config.channels * config.patch_size_t * config.patch_size**2
        zeros = nnx.initializers.zeros_init()
        self.patch_embed = nnx.Linear(patch_values, width, rngs=rngs)
        self.text_proj = nnx.Linear(config.text_dim, width, rngs=rngs)
        self.time_embedding = TimeEmbedding(width, config.time_dim, rngs=rngs)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap
        def make_blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = make_blocks(rngs)
        self.norm_final = nnx.LayerNorm(width, epsilon=config.norm_eps, rngs=rngs)
        self.norm_out = nnx.LayerNorm(width, epsilon=config.norm_eps, rngs=rngs)
        self.modulation_out = nnx.Linear(config.time_dim, 2 * width, kernel_init=zeros, rngs=rngs)
        self.proj_out = nnx.Linear(width, patch_values, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B P T E"],
        timesteps: Int[Array, "B S"],
        given: Bool[Array, "B S"] | None = None,
        placement: Placement = ONE_DEVICE,
        frames: tuple[int, ...] | None = None,
    ) -> Float[Array, "B S F H W C"]:
        """v of every scene; `timesteps` is 0 for scenes that are `given`.

        Scenes of different lengths are filled up to the longest, and `frames` counts those that
        are real; the others are left out, and their v is 0. If there is one text more than there
        are scenes, the first is global: all video sees it. As no part of training it has the time
        of the noisiest scene; under the causal mask it counts as given.

        Raises ValueError if the latents' frames, rows or columns do not divide into patches, for
        other numbers of texts, and under the causal mask without `given`, which other masks ignore.
        """
        begun = self.begin(latents, text_embeds, timesteps, given, placement, frames)
        tokens, embedded = self._run_blocks(*begun, placement), begun[1]
        return self.end(tokens, embedded, placement).astype(latents.dtype)

    def begin(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B P T E"],
        timesteps: Int[Array, "B S"],
        given: Bool[Array, "B S"] | None = None,
        placement: Placement = ONE_DEVICE,
        frames: tuple[int, ...] | None = None,
    ) -> tuple[Float[Array, "B L D"], Embedded]:
        """The input of the first block, of what the model is called with."""
        check_given(self.config.mask, given)
        scenes, texts = latents.shape[1], text_embeds.shape[1]
        check_texts(scenes, texts)
        if texts > scenes:
            time = timesteps.max(1, keepdims=True)
            if depends_on_given(self.config.mask):
                time = jnp.zeros_like(time)
            timesteps = jnp.concatenate([time, timesteps], axis=1)
            if given is not None:
                given = jnp.pad(given, ((0, 0), (1, 0)), constant_values=True)
        story = np.arange(scenes)
        inputs = (latents, text_embeds, timesteps, placement, story, scenes, frames)
        tokens, embedded = self._embed(*inputs)
        return tokens, embedded._replace(given=given)

    def run_layer(
        self, mask: str, tokens: Float[Array, "B L D"], embedded: Embedded, placement: Placement
    ) -> Float[Array, "B L D"]:
        """One block's result, where `blocks` has the parameters of that block alone.

        `mask` is the block's of `block_masks`. With `begin` and `end` the model is run block by
        block, which is `family.RunsByBlocks`.
        """
        x, block = embedded, self.blocks
        block.attention.mask = mask
        return block(tokens, x.time_embed, x.layout, x.rope, placement, x.given)

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
        """Keys and values, in all layers, of the video of a story's given scenes.

        `latents` and `text_embeds` are those of the given scenes alone; `given` says which of the
        story's scenes they are. Raises ValueError unless the mask is causal: under others it is
        not constant.
        """
        check_constant(self.config.mask)
        timesteps = jnp.zeros(latents.shape[:2], jnp.int32)
        places = np.flatnonzero(given)
        inputs = (latents, text_embeds, timesteps, placement, places, len(given))
        tokens, embedded = self._embed(*inputs)
        block_def, stacked = nnx.split(self.blocks)
        time_embed, rope, layout = embedded.time_embed, embedded.rope, embedded.layout
        everyone = jnp.ones(latents.shape[:2], bool)

        def run_block(mask, tokens, params):
            block = nnx.merge(block_def, placement.gather_params(params))
            block.attention.mask = mask
            kept = block.keep(tokens, time_embed, layout, rope, placement)
            tokens = block(tokens, time_embed, layout, rope, placement, everyone)
            return placement.shard_tokens(tokens), kept

        return self._over_layers(run_block, tokens, stacked)[1]

    def predict_cached(
        self,
        latents: Float[Array, "B G F H W C"],
        text_embeds: Float[Array, "B G T E"],
        timesteps: Int[Array, "B G"],
        cached: KeyValues,
        given: tuple[bool, ...],
        placement: Placement = ONE_DEVICE,
    ) -> Float[Array, "B G F H W C"]:
        """v of the generated scenes, the others being in the cache (`cache_given`).

        All but `given`, which says which of the story's scenes are in the cache, is of the
        generated scenes alone. The same as `__call__` with the whole story.
        """
        places = np.flatnonzero(np.logical_not(given))
        inputs = (latents, text_embeds, timesteps, placement, places, len(given))
        tokens, embedded = self._embed(*inputs)
        tokens = self._run_blocks(tokens, embedded, placement, cached)
        return self.end(tokens, embedded, placement).astype(latents.dtype)

    def _embed(
        self,
        latents: Float[Array, "B S F H W C"],
        text_embeds: Float[Array, "B P T E"],
        timesteps: Int[Array, "B P"],
        placement: Placement,
        places: Int[np.ndarray, " S"],
        story_scenes: int,
        frames_of_scenes: tuple[int, ...] | None = None,
    ) -> tuple[Float[Array, "B L D"], Embedded]:
        """Scenes that stand at some `places` of a story of `story_scenes`.

        Those of different lengths must be all of the story's.
        """
        patch, patch_t = self.config.patch_size, self.config.patch_size_t
        scenes, frames = latents.shape[1:3]
        lengths = frames_of_scenes or (frames,) * scenes
        grid = patch_grid(latents.shape, lengths, patch, patch_t)
        texts, text_length = text_embeds.shape[1:3]
        has_global = texts > scenes
        counts = tuple(length // patch_t * math.prod(grid[1:]) for length in lengths)
        layout = Layout(
            texts,
            text_length,
            (0,) * has_global + counts,
            placement.padding(texts * text_length + sum(counts)),
            has_global,
            frame=math.prod(grid[1:]),
        )
        positions = (layout, grid, places, story_scenes)
        dtype = self.proj_out.kernel.dtype

        patches = patchify(latents.astype(dtype), patch, patch_t)
        no_text = jnp.zeros((*text_embeds.shape[:3], patches.shape[-1]), dtype)
        patches = join_patches(layout, no_text, patches)
        tokens = self.patch_embed(placement.shard_tokens(patches))
        if self.config.added_positions:
            tokens += added_positions(self.config, *positions).astype(dtype)
        text = self.text_proj(placement.shard_stories(text_embeds.astype(dtype)))
        text = text.reshape(text.shape[0], layout.text_tokens, -1)
        tokens = placement.replace_text(tokens, text, layout)
        if self.config.scene_positions:
            scene = scene_positions(self.config, layout, places).astype(dtype)
            scene = placement.shard_stories(jnp.broadcast_to(scene, (len(text), *scene.shape)))
            tokens += placement.spread(scene, scene, layout)
        tokens = checkpoint_name(tokens, "patch_embed")
        time_embed = placement.shard_stories(self.time_embedding(timesteps))
        time_embed = checkpoint_name(time_embed, "time_embedding")
        rope = joint_rope(self.config, *positions) if self.config.rotary else ()
        return tokens, Embedded(time_embed, rope, Places(layout, grid))

    def end(
        self, tokens: Float[Array, "B L D"], embedded: Embedded, placement: Placement
    ) -> Float[Array, "B S F H W C"]:
        """v, of the last block's result."""
        time_embed, layout, grid = embedded.time_embed, embedded.layout, embedded.places.grid
        tokens = checkpoint_name(self.norm_final(tokens), "norm_final")
        shift, scale = jnp.split(self.modulation_out(jax.nn.silu(time_embed)), 2, axis=-1)
        # Text too, for nothing: so the tokens can stay sharded until they are as narrow as patches.
        shift, scale = (placement.spread(x, x, layout) for x in (shift, scale))
        tokens = modulate(self.norm_out(tokens), shift, scale)
        patches = self.proj_out(checkpoint_name(tokens, "norm_out"))
        video = split_video(
            layout, placement.shard_stories(checkpoint_name(patches, "proj_out")), math.prod(grid)
        )
        return unpatchify(video, grid, self.config.patch_size, self.config.patch_size_t)

    def _run_blocks(self, tokens, embedded, placement, cached=None):
        time_embed, rope, layout = embedded.time_embed, embedded.rope, embedded.layout
        given = embedded.given
        block_def, stacked = nnx.split(self.blocks)

        def run_block(mask, tokens, layer):
            params, cached = layer

            def block(params, tokens, time_embed, rope, placement):
                this_layer = nnx.merge(block_def, params)
                this_layer.attention.mask = mask
                place_scenes(this_layer, layout)
                return this_layer(tokens, time_embed, layout, rope, placement, given, cached)

            return placement.run_block(block, params, tokens, time_embed, rope), None

        run_layer = with_remat(run_block, self.config.remat, self.config.scan)
        return self._over_layers(run_layer, tokens, (stacked, cached))[0]

    def _over_layers(self, run_block, tokens, layers):
        return over_layers(run_block, self.block_masks, self.config.scan, tokens, layers)
