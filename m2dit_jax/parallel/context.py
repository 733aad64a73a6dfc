"""Context parallelism: the tokens of a story sharded over the `context` axis of the mesh.

Each device has an equal shard of the joint sequence, whatever scenes it falls on (13 latent frames
would not divide). For attention an all-to-all reshards tokens to heads (DeepSpeed Ulysses,
arXiv 2309.14509): then each device has the whole sequence for some of the heads, and the mask is
what it always is. Heads that do not divide are in `parallel.heads`.

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
from m2dit_jax.models.attention.cross import cross_attention
from m2dit_jax.models.attention.dispatch import Heads, Queries, attention
from m2dit_jax.models.attention.target import Target
from m2dit_jax.models.layout import Layout
from m2dit_jax.models.masks import check_given, depends_on_given
from m2dit_jax.models.placement import Params, Placement, RunBlock
from m2dit_jax.parallel.heads import HeadShares
from m2dit_jax.parallel.mesh import STORIES, TOKENS
from m2dit_jax.parallel.rules import path_name, spec_of

SHARD = PartitionSpec(STORIES, TOKENS)  # an array [B L ...]
KEPT = PartitionSpec(STORIES, None, TOKENS)  # cached keys [B M N K]: each device has its heads


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
        """Attention of this device's heads, with the whole sequence."""

        def attend(query: Queries, key: Heads, value: Heads, query_layout: Layout) -> Queries:
            return attention(
                query, key, value, layout, mask, implementation, given, self._target, query_layout
            )

        return self._by_heads(attend, query, key, value, layout)

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
        """Attention as above; each device has all cached tokens of its heads."""

        def attend(query: Queries, key: Heads, value: Heads, query_layout: Layout) -> Queries:
            return attention_cached(
                query, key, value, cached, layout, mask, implementation, self._target, query_layout
            )

        return self._by_heads(attend, query, key, value, layout)

    def cross_attention(
        self,
        query: Heads,
        key: Float[Array, "B M N K"],
        value: Float[Array, "B M N K"],
        layout: Layout,
        mask: str,
        implementation: str,
    ) -> Heads:
        """Attention of this device's heads of the whole video to the text."""

        def attend(query: Queries, key: Heads, value: Heads, query_layout: Layout) -> Queries:
            return cross_attention(
                query, key, value, layout, mask, implementation, self._target, query_layout
            )

        return self._by_heads(attend, query, key, value, layout, whole=True)

    def _by_heads(
        self,
        attend: Callable[[Queries, Heads, Heads, Layout], Queries],
        query: Heads,
        key: Float[Array, "B M N K"],
        value: Float[Array, "B M N K"],
        layout: Layout,
        whole: bool = False,
    ) -> Heads:
        """The result for this shard's tokens of an attention that needs whole sequences.

        Keys and values are shards too, or `whole`: then each device takes those of its heads.
        """
        shares = HeadShares.of(query.shape[2], self.mesh.shape[TOKENS])
        device = jax.lax.axis_index(TOKENS)
        part = device % shares.parts

        def gather(x: Array) -> Array:
            return jax.lax.all_to_all(
                shares.expand(x), TOKENS, split_axis=2, concat_axis=1, tiled=True
            )

        def take(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(
                shares.expand(x), device * shares.local, shares.local, axis=2
            )

        query = gather(query)
        key, value = (take(x) if whole else gather(x) for x in (key, value))
        out = attend(shares.take_part(query, layout, part), key, value, shares.query_layout(layout))
        out = shares.place_part(out, layout, part)
        out = jax.lax.all_to_all(out, TOKENS, split_axis=1, concat_axis=2, tiled=True)
        return shares.merge(out)

    @property
    def _target(self) -> Target:
        return target_of(self.mesh)

    def _positions(self, layout: Layout) -> Int[Array, " _L"]:
        """The positions of this shard's tokens in the joint sequence."""
        length = layout.tokens // self.mesh.shape[TOKENS]
        return jax.lax.axis_index(TOKENS) * length + jnp.arange(length)


@dataclass(frozen=True)
class MeshPlacement(Placement):
    """Stories are sharded along `data` and `fsdp`, their tokens along `context`."""

    mesh: Mesh

    @property
    def is_sharded(self) -> bool:
        """A mesh has more than one device."""
        return True

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

        return self._on_shards(attend, SHARD, SHARD, SHARD, KEPT)(query, key, value, cached)

    def cross_attention(
        self,
        query: Heads,
        key: Float[Array, "B M N K"],
        value: Float[Array, "B M N K"],
        layout: Layout,
        mask: str,
        implementation: str,
    ) -> Heads:
        def attend(shard: ShardPlacement, query: Heads, key: Array, value: Array) -> Heads:
            return shard.cross_attention(query, key, value, layout, mask, implementation)

        stories = PartitionSpec(STORIES)
        return self._on_shards(attend, SHARD, stories, stories)(query, key, value)

    def keep(self, keys: Heads, values: Heads, layout: Layout) -> KeyValues:
        """Keys and values as `HeadShares.expand` has them, each device holding its heads."""
        shares = HeadShares.of(keys.shape[2], self.mesh.shape[TOKENS])
        kept = super().keep(keys, values, layout)
        return KeyValues(*(self._constrain(shares.expand(x), KEPT) for x in kept))

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
    """The placement of a program's work on this mesh, whose devices may be absent."""
    return Placement(target=target_of(mesh)) if mesh.size == 1 else MeshPlacement(mesh)


def target_of(mesh: Mesh) -> Target:
    """The kind of device that attention on this mesh is compiled for: its devices are alike."""
    return Target.of(mesh.devices.flat[0])


def _gathered(param: Array, sharding: NamedSharding) -> Array:
    @jax.custom_vjp
    def gather(param: Array) -> Array:
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        return jax.lax.with_sharding_constraint(param, whole)

    def backward(_: None, cotangent: Array) -> tuple[Array]:
        return (jax.lax.with_sharding_constraint(cotangent, sharding),)

    gather.defvjp(lambda param: (gather(param), None), backward)
    return gather(param)
