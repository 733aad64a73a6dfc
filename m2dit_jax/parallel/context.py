"""Context parallelism: the tokens of a story cut over the `context` axis of the mesh.

Between attentions each device has an equal piece of the joint sequence, whatever scenes it falls
on (13 latent frames would not divide). For attention the pieces are exchanged for heads
(all-to-all, DeepSpeed Ulysses, arXiv 2309.14509): then each device sees the whole sequence for some
of the heads, and the mask is what it always is. Where the heads do not divide, keys and values are
gathered instead, and each device asks for its own piece.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from m2dit_jax.model.attention import Heads, attention, resolve
from m2dit_jax.model.attention_chunks import attend_rows
from m2dit_jax.model.layout import Layout
from m2dit_jax.model.placement import ONE_DEVICE, Params, Placement
from m2dit_jax.parallel.mesh import STORIES, TOKENS
from m2dit_jax.parallel.rules import path_name, spec_of

PIECE = PartitionSpec(STORIES, TOKENS)  # of an array [B L ...]


@dataclass(frozen=True)
class MeshPlacement(Placement):
    """Stories cut along `data` and `fsdp`, their tokens along `context`."""

    mesh: Mesh

    def padding(self, tokens: int) -> int:
        """So many that the tokens divide over the devices."""
        return -tokens % self.mesh.shape[TOKENS]

    def cut_tokens(self, tokens: Float[Array, "B L *rest"]) -> Float[Array, "B L *rest"]:
        return self._constrain(tokens, STORIES, TOKENS)

    def cut_stories(self, x: Float[Array, "B *rest"]) -> Float[Array, "B *rest"]:
        return self._constrain(x, STORIES)

    def spread(
        self, text: Float[Array, "B S D"], video: Float[Array, "B S D"], layout: Layout
    ) -> Float[Array, "B L D"]:
        """As a product with ones and zeros, whose gradient needs no more than sums exchanged."""
        table = jnp.concatenate([text, video], axis=1)

        def spread(table: Array, rows: Array) -> Array:
            chosen = jax.nn.one_hot(rows, table.shape[1], dtype=table.dtype)
            return jnp.einsum("ls,bsd->bld", chosen, table, precision=jax.lax.Precision.HIGHEST)

        return self._on_pieces(spread, PartitionSpec(STORIES), PartitionSpec(TOKENS))(
            table, jnp.asarray(layout.table_rows())
        )

    def replace_text(
        self, tokens: Float[Array, "B L D"], text: Float[Array, "B _T D"], layout: Layout
    ) -> Float[Array, "B L D"]:
        def replace(tokens: Array, text: Array) -> Array:
            length = tokens.shape[1]
            rows = jax.lax.axis_index(TOKENS) * length + jnp.arange(length)
            of_text = text[:, jnp.minimum(rows, text.shape[1] - 1)]
            return jnp.where((rows < text.shape[1])[:, None], of_text, tokens)

        return self._on_pieces(replace, PIECE, PartitionSpec(STORIES))(tokens, text)

    def gather_params(self, params: Params) -> Params:
        """Gradients come back cut as the rules have it: reduce-scattered, not all-reduced."""

        def gather(path: Any, param: Array) -> Array:
            spec = spec_of(path_name(path), param.shape, self.mesh)
            return _gathered(param, NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(gather, params)

    def attention(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        layout: Layout,
        mask: str,
        implementation: str,
    ) -> Heads:
        """In a shard_map, as kernels of TPU and GPU cannot be cut by the compiler."""
        platform = self.mesh.devices.flat[0].platform
        pieces = self.mesh.shape[TOKENS]

        def by_heads(*parts: Heads) -> Heads:
            query, key, value = (
                jax.lax.all_to_all(x, TOKENS, split_axis=2, concat_axis=1, tiled=True)
                for x in parts
            )
            name = resolve(implementation, query.shape, query.dtype, platform)
            out = attention(query, key, value, layout, mask, name)
            return jax.lax.all_to_all(out, TOKENS, split_axis=1, concat_axis=2, tiled=True)

        def by_rows(query: Heads, key: Heads, value: Heads) -> Heads:
            key, value = (jax.lax.all_gather(x, TOKENS, axis=1, tiled=True) for x in (key, value))
            length = query.shape[1]
            rows = jax.lax.axis_index(TOKENS) * length + jnp.arange(length)
            return attend_rows(query, key, value, rows, layout, mask)

        attend = by_rows if query.shape[2] % pieces else by_heads
        return self._on_pieces(attend, PIECE, PIECE, PIECE)(query, key, value)

    def _on_pieces(self, function: Callable[..., Array], *inputs: Any) -> Callable[..., Array]:
        """A function that each device runs on its piece, and whose result is its piece."""
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=inputs,
            out_specs=PIECE,
            check_vma=False,  # it does not know Pallas kernels
        )

    def _constrain(self, x: Array, *axes: Any) -> Array:
        sharding = NamedSharding(self.mesh, PartitionSpec(*axes))
        return jax.lax.with_sharding_constraint(x, sharding)


def _gathered(param: Array, cut: NamedSharding) -> Array:
    @jax.custom_vjp
    def gather(param: Array) -> Array:
        whole = NamedSharding(cut.mesh, PartitionSpec())
        return jax.lax.with_sharding_constraint(param, whole)

    def backward(_: None, cotangent: Array) -> tuple[Array]:
        return (jax.lax.with_sharding_constraint(cotangent, cut),)

    gather.defvjp(lambda param: (gather(param), None), backward)
    return gather(param)


def placement_on(mesh: Mesh) -> Placement:
    """How to place the work of a program for this mesh."""
    return ONE_DEVICE if mesh.size == 1 else MeshPlacement(mesh)
