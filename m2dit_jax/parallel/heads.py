"""How the heads of attention are divided over the devices that share a story's tokens.

Heads that do not divide are filled up with zeros, as long as that is little work. Where it would
be more, several devices have the same heads and divide the queries instead: 48 heads on 64 devices
are 16 groups of 3 heads, each on 4 devices with a quarter of the queries. That sends `parts` times
the bytes, and computes nothing twice.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from m2dit_jax.models.layout import Layout

MOST_FILLED = 0.1  # heads of zeros, as a share of the heads
MOST_PARTS = 4  # that sampling takes; with more, fewer devices are as fast


@dataclass(frozen=True)
class HeadShares:
    """`heads` in `groups`, each on `parts` devices that have a part of the queries each."""

    heads: int
    groups: int
    parts: int

    @classmethod
    def of(cls, heads: int, devices: int) -> "HeadShares":
        """The fewest parts for which at most MOST_FILLED of the heads are filled up."""
        parts = next(
            parts
            for parts in range(1, devices + 1)
            if devices % parts == 0
            and cls(heads, devices // parts, parts).filled <= (1 + MOST_FILLED) * heads
        )
        return cls(heads, devices // parts, parts)

    @property
    def local(self) -> int:
        """Heads on each device."""
        return -(-self.heads // self.groups)

    @property
    def filled(self) -> int:
        """Heads of all groups, with those of zeros."""
        return self.local * self.groups

    def __str__(self) -> str:
        """Empty where heads divide."""
        notes = []
        if self.filled > self.heads:
            notes.append(f"{self.heads} heads filled up to {self.filled}")
        if self.parts > 1:
            heads = "1 head" if self.local == 1 else f"{self.local} heads"
            notes.append(f"{heads} and 1/{self.parts} of attention's queries on each device")
        return ", ".join(notes)

    def expand(self, x: Float[Array, "B M N K"]) -> Float[Array, "B M _A K"]:
        """The heads of all devices one after the other: filled up, each group once for a part."""
        filled = jnp.pad(x, ((0, 0), (0, 0), (0, self.filled - self.heads), (0, 0)))
        if self.parts == 1:
            return filled
        batch, tokens, _, head_dim = x.shape
        groups = filled.reshape(batch, tokens, self.groups, self.local, head_dim)
        return jnp.repeat(groups, self.parts, axis=2).reshape(batch, tokens, -1, head_dim)

    def merge(self, x: Float[Array, "B M _A K"]) -> Float[Array, "B M N K"]:
        """Results of all devices' heads to those of the heads; zero where a part has none."""
        if self.parts > 1:
            batch, tokens, _, head_dim = x.shape
            groups = x.reshape(batch, tokens, self.groups, self.parts, self.local, head_dim)
            x = groups.sum(3).reshape(batch, tokens, self.filled, head_dim)
        return x[:, :, : self.heads]

    def query_layout(self, layout: Layout) -> Layout:
        """The layout of one device's queries."""
        return layout if self.parts == 1 else layout.share(self.parts)

    def take_part(
        self, query: Float[Array, "B L N K"], layout: Layout, part: Int[Array, ""]
    ) -> Float[Array, "B _Q N K"]:
        """The part of each segment's queries, in `query_layout`; zeros fill up the last parts."""
        if self.parts == 1:
            return query
        taken = []
        for start, length in zip(layout.segment_starts, layout.segment_lengths, strict=True):
            size = -(-length // self.parts)
            queries = query[:, start : start + length]
            queries = jnp.pad(
                queries, ((0, 0), (0, size * self.parts - length), (0, 0), (0, 0))
            ).reshape(query.shape[0], self.parts, size, *query.shape[2:])
            taken.append(jax.lax.dynamic_index_in_dim(queries, part, axis=1, keepdims=False))
        return jnp.concatenate(taken, axis=1)

    def place_part(
        self, out: Float[Array, "B _Q N K"], layout: Layout, part: Int[Array, ""]
    ) -> Float[Array, "B L N K"]:
        """The results of a part at their places in the joint sequence, zeros elsewhere."""
        if self.parts == 1:
            return out
        own = (jnp.arange(self.parts) == part)[:, None, None, None]
        placed, start = [], 0
        for length in layout.segment_lengths:
            size = -(-length // self.parts)
            segment = jnp.where(own, out[:, None, start : start + size], 0)
            segment = segment.reshape(out.shape[0], self.parts * size, *out.shape[2:])
            placed.append(segment[:, :length])
            start += size
        return jnp.concatenate(placed, axis=1)


def story_devices(heads: int, devices: int) -> int:
    """The most devices that share a story's tokens without more than MOST_PARTS."""
    return next(
        count for count in range(devices, 0, -1) if HeadShares.of(heads, count).parts <= MOST_PARTS
    )
