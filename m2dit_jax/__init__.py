"""Mask²DiT in JAX: text to multi-scene video with a masked diffusion transformer."""
