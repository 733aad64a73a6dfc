"""Bounds and choices that several parts of the config share."""

from m2dit_jax.data.worlds import WORLDS
from m2dit_jax.models.families import DEFAULT

# Pixels per latent; the first frame has a latent of its own.
VAE_SIDE = DEFAULT.vae.config({}).spatial_compression
VAE_FRAMES = DEFAULT.vae.config({}).temporal_compression_ratio

# Bounds that no training comes near; they keep a slip of the keyboard from taking all memory.
MAX_STEPS = 10**9
MAX_LAYERS, MAX_HEADS, MAX_WIDTH = 1000, 1024, 262_144
MAX_STORY = 2**31 - 1  # numbers in a story's tensor: those that int32 can count
MAX_TIMESTEPS = 100_000

DRAWN = tuple(WORLDS)  # sources of stories that are drawn here
SOURCES = (*DRAWN, "pixels", "latents")
DTYPES = ("float32", "bfloat16")
