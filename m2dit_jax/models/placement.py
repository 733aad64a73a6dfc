"""Where the work on stories happens, as far as the model must know: here on one device."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from m2dit_jax.models.attention.cached import KeyValues, attention_cached
from m2dit_jax.models.attention.cross import cross_attention
from m2dit_jax.models.attention.dispatch import Heads, attention
from m2dit_jax.models.attention.target import Target
from m2dit_jax.models.layout import Layout

Params = Any
RunBlock = Callable[..., Float[Array, "B L D"]]


@dataclass(frozen=True)
class Placement:
    """The placement on one device, which has everything; `parallel.context` has that on a mesh.

    `target` is that device, or one of an absent machine that is compiled for; None: jax's first.
    """

    target: Target | None = field(default=None, kw_only=True)

    @property
    def is_sharded(self) -> bool:
        """Whether there is more than one device."""
        return False

    def padding(self, tokens: int) -> int:
        """Tokens to append to a joint sequence of so many."""
        return 0

    def shard_tokens(self, tokens: Float[Array, "B L *rest"]) -> Float[Array, "B L *rest"]:
        """The same array, each device holding its shard of the tokens."""
        return tokens

    def shard_stories(self, x: Shaped[Array, "B *rest"]) -> Shaped[Array, "B *rest"]:
        """The same array, each device that works on a story holding all of it."""
        return x

    def spread(
        self, text: Float[Array, "B S D"], video: Float[Array, "B S D"], layout: Layout
    ) -> Float[Array, "B L D"]:
        """`Layout.spread`, sharded as `shard_tokens` does."""
        return layout.spread(text, video)

    def replace_text(
        self, tokens: Float[Array, "B L D"], text: Float[Array, "B _T D"], layout: Layout
    ) -> Float[Array, "B L D"]:
        """The joint sequence with other text tokens, those of all scenes."""
        return jnp.concatenate([text, tokens[:, layout.text_tokens :]], axis=1)

    def gather_params(self, params: Params) -> Params:
        """The same parameters, whole on every device; their gradients are sharded again."""
        return params

    def gather_outside_blocks(self, params: Params) -> Params:
        """All parameters whole but for those of the transformer's blocks.

        `params` are an M2DiT's, or contain them as `transformer`. The blocks are most of them, and
        are gathered one at a time, when it is their turn.
        """
        inner = {"transformer": self.gather_outside_blocks, "blocks": lambda part: part}
        return {name: inner.get(name, self.gather_params)(part) for name, part in params.items()}

    def run_block(
        self,
        block: RunBlock,
        params: Params,
        tokens: Float[Array, "B L D"],
        time_embed: Float[Array, "B S E"],
        rope: tuple[Float[Array, "L K"], ...],
    ) -> Float[Array, "B L D"]:
        """The result of a transformer block on tokens that are sharded as by `shard_tokens`.

        `block` is a function of all that follows and of the placement that it sees.
        """
        return block(params, tokens, time_embed, rope, self)

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
        """`models.attention.attention`, in a block."""
        return attention(query, key, value, layout, mask, implementation, given, self.target)

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
        """`attention.cached.attention_cached`, in a block; `cached` is what `keep` returned."""
        return attention_cached(
            query, key, value, cached, layout, mask, implementation, self.target
        )

    def cross_attention(
        self,
        query: Heads,
        key: Float[Array, "B M N K"],
        value: Float[Array, "B M N K"],
        layout: Layout,
        mask: str,
        implementation: str,
    ) -> Heads:
        """`attention.cross.cross_attention`, in a block; text is whole on every device."""
        return cross_attention(query, key, value, layout, mask, implementation, self.target)

    def keep(self, keys: Heads, values: Heads, layout: Layout) -> KeyValues:
        """Keys and values of the video of a joint sequence, placed for `attention_cached`."""
        video = slice(layout.text_tokens, layout.real_tokens)
        return KeyValues(keys[:, video], values[:, video])


ONE_DEVICE = Placement()
