"""What latents are: the pixels themselves, or what a VAE makes of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.errors import JaxRuntimeError
from jaxtyping import Array, Float, Key, UInt8

from m2dit_jax.models.coding import Vae, encode_clips, frames_to_decode, latent_frames
from m2dit_jax.models.family import DecodeInStrips
from m2dit_jax.models.pixels import decode_pixels, encode_pixels
from m2dit_jax.models.vae_tiles import decode_tiled
from m2dit_jax.pipeline.memory import NetworkSet, Say
from m2dit_jax.pipeline.memory_plan import MOST_MEMORY
from m2dit_jax.stories.noise import clip_noise
from m2dit_jax.utils.finite import check_finite
from m2dit_jax.utils.machine import free_bytes

# How the VAE decodes: a scene as it is; the same layer by layer in strips of rows, with little
# memory on the device and by way of the host; in tiles that blend, quicker than strips and an
# approximation (`vae_tiles`).
DECODERS = ("whole", "strips", "tiles")
# Rows x columns up to which a scene is decoded whole where nobody knows how much memory is free.
WHOLE_LATENTS = 36 * 54

LatentShape = Callable[[int, int, int], tuple[int, int, int, int]]


@runtime_checkable
class Codec(Protocol):
    """Clips to latents and back."""

    @property
    def decoder_name(self) -> str:
        """The name of the way of decoding: frames decoded in another way are not the same."""
        ...

    @property
    def instant(self) -> bool:
        """Whether decoding costs next to nothing, so that it need not wait for its turn."""
        ...

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Latent frames, rows, columns, channels of a scene; ValueError for impossible sizes."""
        ...

    def encode(
        self, networks: NetworkSet, clips: UInt8[np.ndarray, "N F H W 3"], keys: Key[Array, " N"]
    ) -> Float[Array, "N f h w C"]:
        """Latents of clips; `keys` are those of their scenes, for codecs that draw."""
        ...

    def encode_first(
        self,
        networks: NetworkSet,
        picture: UInt8[np.ndarray, "1 H W 3"],
        frames: int,
        key: Key[Array, ""],
    ) -> Float[Array, "f h w C"]:
        """The latent frames that a scene of `frames` frames has of its first frame alone."""
        ...

    def decode(
        self, networks: NetworkSet, latents: Float[np.ndarray, "N f h w C"], frames: int, name: str
    ) -> UInt8[np.ndarray, "N {frames} H W 3"]:
        """Frames of scenes of `frames` frames; `name` is theirs in messages.

        Raises NotFinite if there are numbers among them that are none.
        """
        ...

    def as_given(self, latents: Float[np.ndarray, "f h w C"]) -> Float[np.ndarray, "f h w C"]:
        """A generated scene's latents as they are kept and given to later scenes."""
        ...


@dataclass(frozen=True)
class PixelCodec:
    """Latents are pixels in -1..1. `check` raises ValueError for sizes that were not trained.

    A single picture is a still clip of `patch` frames, those of a patch of the transformer.
    """

    check: Callable[[int, int, int], None]
    decoder_name: str = "pixels"
    instant: bool = True
    patch: int = 1

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape of the pixels: (F, H, W, 3)."""
        frames = self.patch if frames == 1 else frames
        self.check(frames, height, width)
        return frames, height, width, 3

    def encode(
        self, networks: NetworkSet, clips: UInt8[np.ndarray, "N F H W 3"], keys: Key[Array, " N"]
    ) -> Float[Array, "N f H W 3"]:
        """The pixels in -1..1."""
        if clips.shape[1] == 1:
            clips = np.repeat(clips, self.patch, axis=1)
        return encode_pixels(jnp.asarray(clips))

    def encode_first(
        self,
        networks: NetworkSet,
        picture: UInt8[np.ndarray, "1 H W 3"],
        frames: int,
        key: Key[Array, ""],
    ) -> Float[Array, "1 H W 3"]:
        """The first frame's pixels in -1..1."""
        return encode_pixels(jnp.asarray(picture))

    def decode(
        self, networks: NetworkSet, latents: Float[np.ndarray, "N f H W 3"], frames: int, name: str
    ) -> UInt8[np.ndarray, "N {frames} H W 3"]:
        """The pixels, rounded and clipped to 0..255."""
        return np.asarray(decode_pixels(jnp.asarray(latents)))[:, :frames]

    def as_given(self, latents: Float[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F H W 3"]:
        """Pixels rounded to what a video can hold, as given scenes were in training."""
        return np.asarray(encode_pixels(decode_pixels(jnp.asarray(latents))))


@dataclass(frozen=True)
class VaeCodec:
    """Latents are scaled draws from a causal VAE's posterior.

    `decoder` is one of DECODERS; None decodes whole where the device's memory is enough, and else
    in strips, which `in_strips` of the family does, and says so.
    `dtype` is that of the VAE's weights, on which the frames depend.
    """

    shape: LatentShape
    decoder: str | None
    dtype: str
    in_strips: DecodeInStrips
    instant: bool = False

    @property
    def decoder_name(self) -> str:
        """Way of decoding and dtype."""
        return f"{self.decoder or 'whole or strips'}, {self.dtype}"

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape by the model's compression; ValueError names the nearest sizes that work."""
        return self.shape(frames, height, width)

    def encode(
        self, networks: NetworkSet, clips: UInt8[np.ndarray, "N F H W 3"], keys: Key[Array, " N"]
    ) -> Float[Array, "N f h w C"]:
        """Draws from the posterior, times the scaling factor; one clip at a time."""
        vae = _vae(networks)
        latents = []
        for clip, key in zip(clips, keys, strict=True):
            drawn = clip_noise(key, self.latent_shape(*clip.shape[:3]))
            latents.append(encode_clips(vae, encode_pixels(jnp.asarray(clip)[None]), drawn[None]))
        return jnp.concatenate(latents)

    def encode_first(
        self,
        networks: NetworkSet,
        picture: UInt8[np.ndarray, "1 H W 3"],
        frames: int,
        key: Key[Array, ""],
    ) -> Float[Array, "f h w C"]:
        """Latents of the picture as a clip of one frame, and of what fills the scene's first patch.

        The VAE is causal: its first latent frame is that of the first frame alone.
        """
        whole = self.encode(networks, picture[None], key[None])[0]
        ratio = _vae(networks).config.temporal_compression_ratio
        filled = self.latent_shape(frames, *picture.shape[1:3])[0] - latent_frames(frames, ratio)
        return whole[: filled + 1]

    def decode(
        self, networks: NetworkSet, latents: Float[np.ndarray, "N f h w C"], frames: int, name: str
    ) -> UInt8[np.ndarray, "N {frames} H W 3"]:
        """Frames of one scene after another, chunk by chunk or tile by tile.

        What the frames were rounded up to is cut off: latents in front, frames at the end.
        """
        vae = _vae(networks)
        whole = np.asarray(frames_to_decode(vae, latents, frames))
        scenes = [self._decode_scene(vae, scene[None], name, networks.say) for scene in whole]
        return np.stack(scenes)[:, :frames]

    def _decode_scene(
        self, vae: Vae, latents: Float[np.ndarray, "1 f h w C"], name: str, say: Say
    ) -> UInt8[np.ndarray, "F H W 3"]:
        scaled = jnp.asarray(latents / vae.config.scaling_factor)
        decoder = self.decoder
        if decoder is None:
            too_large = _too_large(vae, latents.shape)
            if too_large:
                say(f"{name}: {too_large}, decoded in strips")
            decoder = "strips" if too_large else "whole"
        if decoder == "tiles":
            video = decode_tiled(
                vae.decode_stream,
                np.asarray(scaled),
                vae.config.spatial_compression,
                on_tile=lambda tile, tiles: say(f"{name}, tile {tile}/{tiles} decoded"),
            )
            check_finite(f"{name}: decoded frames", video)
            return np.asarray(decode_pixels(jnp.asarray(video[0])))
        if decoder == "strips":
            return _in_chunks(vae, partial(self.in_strips, vae), scaled, name, say)
        try:
            return _in_chunks(vae, vae.decode_stream, scaled, name, say)
        except JaxRuntimeError as error:
            if self.decoder is not None or "RESOURCE_EXHAUSTED" not in str(error):
                raise
        # Outside of the handler, whose traceback would keep arrays on the device.
        say(f"{name}: the device's memory was not enough to decode it whole, decoded in strips")
        return _in_chunks(vae, partial(self.in_strips, vae), scaled, name, say)

    def as_given(self, latents: Float[np.ndarray, "f h w C"]) -> Float[np.ndarray, "f h w C"]:
        """Latents unchanged: through the VAE and back they would only lose."""
        return latents


def _in_chunks(
    vae: Vae,
    decode: Callable[[Array], Iterable[Float[Array | np.ndarray, "1 _ H W 3"]]],
    latents: Float[Array, "1 f h w C"],
    name: str,
    say: Say,
) -> UInt8[np.ndarray, "F H W 3"]:
    """Frames of a scene, chunk by chunk; only they leave the device, as bytes."""
    chunks = len(vae.chunks(latents.shape[1]))
    parts = []
    for number, part in enumerate(decode(latents), 1):
        check_finite(f"{name}: decoded frames, chunk {number}", part)
        parts.append(np.asarray(decode_pixels(jnp.asarray(part[0]))))
        say(f"{name}, chunk {number}/{chunks} decoded")
    return np.concatenate(parts)


def _too_large(vae: Vae, shape: Sequence[int]) -> str:
    """Why a scene of latents cannot be decoded whole on the device that the VAE is on, or ""."""
    _, frames, rows, columns, _ = shape
    weights = jax.tree.leaves(nnx.state(vae, nnx.Param))[0]
    device = weights.addressable_shards[0].device
    free = free_bytes(device)
    if free is None:
        if rows * columns <= WHOLE_LATENTS:
            return ""
        return f"{rows}x{columns} latents are large, and the device's free memory is not known"
    needed = vae.decoding_bytes(frames, rows, columns, device.platform)
    if needed <= MOST_MEMORY * free:
        return ""
    return (
        f"decoding it whole takes about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of the "
        "device are free"
    )


def _vae(networks: NetworkSet) -> Vae:
    return nnx.merge(*networks.get("VAE"))
