"""The noise of a story, scene by scene: a scene's draws do not depend on which others there are."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

# Streams of a scene's key. What a step draws is STEPS plus its number.
CLIP, GIVEN, START, STEPS = range(4)
_TAKES = 2**31  # what a take's number is added to: no place of a scene and no attempt is as high


def scene_key(seed: Sequence[int], attempt: int = 0, take: int = 0) -> Key[Array, ""]:
    """Key of a scene by the numbers of `scene_seed`, another one for each take and attempt."""
    key = jax.random.key(seed[0])
    for number in (*seed[1:], *([_TAKES + take] if take else []), attempt):
        key = jax.random.fold_in(key, number)
    return key


def scene_seed(story_seed: int, scene: int, own: int | None) -> list[int]:
    """Numbers that a scene draws by: its own seed, or the story's and its place."""
    return [story_seed, scene] if own is None else [own]


def story_keys(seeds: Sequence[int], places: Sequence[int]) -> Key[Array, "B S"]:
    """Keys of the scenes at these places of stories with these seeds, none with a seed of its own.

    The same as `scene_key(scene_seed(seed, place, None))`, for a whole batch.
    """
    stories = jnp.stack([jax.random.key(seed) for seed in seeds])

    def scene_key_in(story: Key[Array, ""], place: Array) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(story, place), 0)  # the first attempt

    return jax.vmap(jax.vmap(scene_key_in, (None, 0)), (0, None))(stories, jnp.asarray(places))


def scene_noise(
    keys: Key[Array, "B S"], stream: int | Array, shape: tuple[int, ...]
) -> Float[Array, "B S *shape"]:
    """Draws of scenes of one shape from a stream, each as it would draw alone."""
    return jax.vmap(jax.vmap(lambda key: normal(jax.random.fold_in(key, stream), shape)))(keys)


def clip_noise(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Noise of the draw from the posterior of a given clip."""
    return normal(jax.random.fold_in(key, CLIP), shape)


def given_noise(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Noise of timestep 0, for a given scene."""
    return normal(jax.random.fold_in(key, GIVEN), shape)


def start_noise(
    keys: Sequence[Key[Array, ""]], frames: Sequence[int], size: tuple[int, ...]
) -> Float[Array, "1 S F H W C"]:
    """Noise that the scenes are denoised from; `size` is that of a frame's latents."""
    return _padded_noise([jax.random.fold_in(key, START) for key in keys], frames, size)


def step_noise(
    keys: Sequence[Key[Array, ""]], step: int, frames: Sequence[int], size: tuple[int, ...]
) -> Float[Array, "1 S F H W C"]:
    """Noise that a sampler which draws adds in a step."""
    return _padded_noise([jax.random.fold_in(key, STEPS + step) for key in keys], frames, size)


def pad_frames(
    scenes: Sequence[Float[Array, "_F H W C"] | Float[np.ndarray, "_F H W C"]],
) -> Float[Array, "1 S F H W C"]:
    """Scenes as a story, filled up with zeros to the length of the longest."""
    longest = max(len(scene) for scene in scenes)
    padded = [jnp.pad(x, [(0, longest - len(x)), (0, 0), (0, 0), (0, 0)]) for x in scenes]
    return jnp.stack(padded)[None]


def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Every draw of a story; tests put the reference's in its place."""
    return jax.random.normal(key, shape)


def _padded_noise(
    keys: Sequence[Key[Array, ""]], frames: Sequence[int], size: tuple[int, ...]
) -> Float[Array, "1 S F H W C"]:
    return pad_frames([normal(key, (n, *size)) for key, n in zip(keys, frames, strict=True)])
