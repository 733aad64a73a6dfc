"""Mask²DiT in JAX: text to multi-scene video with a masked diffusion transformer."""

from m2dit_jax.pipeline.load import load

__version__ = "0.1.0"

__all__ = ["load"]
