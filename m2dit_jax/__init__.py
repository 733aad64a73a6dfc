"""Mask²DiT in JAX: text to multi-scene video with a masked diffusion transformer."""

__version__ = "0.1.0"
