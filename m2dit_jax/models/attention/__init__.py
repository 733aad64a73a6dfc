"""Masked attention over the joint sequence: `attention`, and a file per implementation of it."""

from m2dit_jax.models.attention.dispatch import Heads, attention

__all__ = ["Heads", "attention"]
