"""Context parallelism: the tokens of a story sharded over the `context` axis of the mesh.

Each device has an equal shard of the joint sequence, whatever scenes it falls on (13 latent frames
would not divide). For attention an all-to-all reshards tokens to heads (DeepSpeed Ulysses,
arXiv 2309.14509): then each device has the whole sequence for some of the heads, and the mask is
what it always is. Where the heads do not divide, keys and values are gathered instead, and each
device asks for its own shard.

What depends on the place of a token runs in a shard_map; linear layers and norms are left to the
compiler. With whole blocks in a shard_map and gradients scattered by hand, the compiler for TPUs
(libtpu 0.0.42) made all-reduces of the scatters: of the least that must be received 1.33 times on
8 v5p instead of 1.13, 1.17 on v5p-64 instead of 1.03; on GPUs it was the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from m2dit_jax.models.attention.cached import KeyValues, attention_cached
from m2dit_jax.models.attention.causal import hide_generated
from m2dit_jax.models.attention.chunks import attend_rows
from m2dit_jax.models.attention.dispatch import Heads, attention
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import base_mask, check_given, depends_on_given, given_tokens
from m2dit_jax.models.placement import ONE_DEVICE, Params, Placement, RunBlock
from m2dit_jax.parallel.mesh import STORIES, TOKENS
from m2dit_jax.parallel.rules import path_name, spec_of

SHARD = PartitionSpec(STORIES, TOKENS)  # an array [B L ...]


@dataclass(frozen=True)
class ShardPlacement(Placement):
    """The placement within a shard_map: one device's stories and its shard of their tokens."""

    mesh: Mesh

    def spread(
        self, text: Float[Array, "B S D"], video: Float[Array, "B S D"], layout: Layout
    ) -> Float[Array, "B _L D"]:
        """`Layout.spread` as a product with ones and zeros, whose gradient is no scatter."""
        table = jnp.concatenate([text, video], axis=1)
        rows = jnp.asarray(layout.table_rows())[self._positions(layout)]
        chosen = jax.nn.one_hot(rows, table.shape[1], dtype=table.dtype)
        return jnp.einsum("ls,bsd->bld", chosen, table, precision=jax.lax.Precision.HIGHEST)

    def replace_text(
        self, tokens: Float[Array, "B _L D"], text: Float[Array, "B _T D"], layout: Layout
    ) -> Float[Array, "B _L D"]:
        positions = self._positions(layout)
        text_tokens = text[:, jnp.minimum(positions, text.shape[1] - 1)]
        return jnp.where((positions < text.shape[1])[:, None], text_tokens, tokens)

    def attention(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        layout: Layout,
        mask: str,
        implementation: str,
        given: Bool[Array, "B S"] | None = None,
    ) -> Heads:
        """Attention by heads; by rows where heads do not divide, whatever the implementation."""
        if query.shape[2] % self.mesh.shape[TOKENS]:
            key, value = (jax.lax.all_gather(x, TOKENS, axis=1, tiled=True) for x in (key, value))
            rows = self._positions(layout)
            if given is None or not depends_on_given(mask):
                return attend_rows(query, key, value, rows, layout, mask)
            is_given = given_tokens(layout, given)
            longer = hide_generated(query, key, value, is_given[:, rows], is_given)
            return attend_rows(*longer, rows, layout, base_mask(mask))[..., : query.shape[3]]
        query, key, value = (
            jax.lax.all_to_all(x, TOKENS, split_axis=2, concat_axis=1, tiled=True)
            for x in (query, key, value)
        )
        platform = self.mesh.devices.flat[0].platform
        out = attention(query, key, value, layout, mask, implementation, given, platform)
        return jax.lax.all_to_all(out, TOKENS, split_axis=1, concat_axis=2, tiled=True)

    def attention_cached(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        cached: KeyValues,
        layout: Layout,
        mask: str,
        implementation: str,
    ) -> Heads:
        """Attention as above; each device has all cached tokens of its heads, or of all heads."""
        if query.shape[2] % self.mesh.shape[TOKENS]:
            key, value = (jax.lax.all_gather(x, TOKENS, axis=1, tiled=True) for x in (key, value))
            key = jnp.concatenate([key, cached.keys], axis=1)
            value = jnp.concatenate([value, cached.values], axis=1)
            rows = self._positions(layout)
            return attend_rows(query, key, value, rows, layout, base_mask(mask))
        query, key, value = (
            jax.lax.all_to_all(x, TOKENS, split_axis=2, concat_axis=1, tiled=True)
            for x in (query, key, value)
        )
        platform = self.mesh.devices.flat[0].platform
        out = attention_cached(query, key, value, cached, layout, mask, implementation, platform)
        return jax.lax.all_to_all(out, TOKENS, split_axis=1, concat_axis=2, tiled=True)

    def _positions(self, layout: Layout) -> Int[Array, " _L"]:
        """The positions of this shard's tokens in the joint sequence."""
        length = layout.tokens // self.mesh.shape[TOKENS]
        return jax.lax.axis_index(TOKENS) * length + jnp.arange(length)


@dataclass(frozen=True)
class MeshPlacement(Placement):
    """Stories are sharded along `data` and `fsdp`, their tokens along `context`."""

    mesh: Mesh

    def padding(self, tokens: int) -> int:
        """Tokens to append, so that all divide over the devices."""
        return -tokens % self.mesh.shape[TOKENS]

    def shard_tokens(self, tokens: Float[Array, "B L *rest"]) -> Float[Array, "B L *rest"]:
        return self._constrain(tokens, SHARD)

    def shard_stories(self, x: Shaped[Array, "B *rest"]) -> Shaped[Array, "B *rest"]:
        return self._constrain(x, PartitionSpec(STORIES))

    def spread(
        self, text: Float[Array, "B S D"], video: Float[Array, "B S D"], layout: Layout
    ) -> Float[Array, "B L D"]:
        stories = PartitionSpec(STORIES)
        return self._on_shards(
            lambda shard, text, video: shard.spread(text, video, layout), stories, stories
        )(text, video)

    def replace_text(
        self, tokens: Float[Array, "B L D"], text: Float[Array, "B _T D"], layout: Layout
    ) -> Float[Array, "B L D"]:
        return self._on_shards(
            lambda shard, tokens, text: shard.replace_text(tokens, text, layout),
            SHARD,
            PartitionSpec(STORIES),
        )(tokens, text)

    def gather_params(self, params: Params) -> Params:
        """Parameters are whole on every device; their gradients are sharded by the rules."""

        def gather(path: Any, param: Array) -> Array:
            spec = spec_of(path_name(path), param.shape, self.mesh)
            return _gathered(param, NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(gather, params)

    def run_block(
        self,
        block: RunBlock,
        params: Params,
        tokens: Float[Array, "B L D"],
        time_embed: Float[Array, "B S E"],
        rope: tuple[Float[Array, "L K"], ...],
    ) -> Float[Array, "B L D"]:
        out = block(self.gather_params(params), tokens, time_embed, rope, self)
        return self.shard_tokens(out)

    def attention(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        layout: Layout,
        mask: str,
        implementation: str,
        given: Bool[Array, "B S"] | None = None,
    ) -> Heads:
        """Attention runs in a shard_map: the compiler cannot shard the kernels of TPU and GPU."""
        check_given(mask, given)

        def attend(shard: ShardPlacement, query: Heads, key: Heads, value: Heads, *rest) -> Heads:
            return shard.attention(query, key, value, layout, mask, implementation, *rest)

        rest = (given,) if depends_on_given(mask) else ()
        stories = [PartitionSpec(STORIES)] * len(rest)
        return self._on_shards(attend, SHARD, SHARD, SHARD, *stories)(query, key, value, *rest)

    def attention_cached(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        cached: KeyValues,
        layout: Layout,
        mask: str,
        implementation: str,
    ) -> Heads:
        def attend(
            shard: ShardPlacement, query: Heads, key: Heads, value: Heads, cached: KeyValues
        ) -> Heads:
            return shard.attention_cached(query, key, value, cached, layout, mask, implementation)

        kept = self._kept_spec(query.shape[2])
        return self._on_shards(attend, SHARD, SHARD, SHARD, kept)(query, key, value, cached)

    def keep(self, keys: Heads, values: Heads, layout: Layout) -> KeyValues:
        kept = super().keep(keys, values, layout)
        spec = self._kept_spec(keys.shape[2])
        return KeyValues(self._constrain(kept.keys, spec), self._constrain(kept.values, spec))

    def _kept_spec(self, heads: int) -> PartitionSpec:
        """The sharding of cached keys: each device has its heads of them, if they divide."""
        divide = heads % self.mesh.shape[TOKENS] == 0
        return PartitionSpec(STORIES, None, TOKENS if divide else None)

    def _on_shards(self, function: Callable[..., Array], *inputs: Any) -> Callable[..., Array]:
        """The function as each device runs it on its shard; its result is a shard too."""

        def run(*args: Any) -> Array:
            return function(ShardPlacement(self.mesh), *args)

        return jax.shard_map(
            run,
            mesh=self.mesh,
            in_specs=inputs,
            out_specs=SHARD,
            check_vma=False,  # it does not know Pallas kernels
        )

    def _constrain(self, x: Array, spec: PartitionSpec) -> Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


def placement_on(mesh: Mesh) -> Placement:
    """The placement of a program's work on this mesh."""
    return ONE_DEVICE if mesh.size == 1 else MeshPlacement(mesh)


def _gathered(param: Array, sharding: NamedSharding) -> Array:
    @jax.custom_vjp
    def gather(param: Array) -> Array:
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        return jax.lax.with_sharding_constraint(param, whole)

    def backward(_: None, cotangent: Array) -> tuple[Array]:
        return (jax.lax.with_sharding_constraint(cotangent, sharding),)

    gather.defvjp(lambda param: (gather(param), None), backward)
    return gather(param)
