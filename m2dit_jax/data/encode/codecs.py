"""What becomes of decoded scenes before they are stored: pixels as they are, or a VAE's latents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, BFloat16, UInt8

from m2dit_jax.data.encoded import EncodedInfo
from m2dit_jax.data.tokenizer import pad_or_truncate
from m2dit_jax.models.coding import Vae, encode_posterior, encode_prompts
from m2dit_jax.models.network import LoadedNetwork
from m2dit_jax.models.pixels import encode_pixels
from m2dit_jax.weights.fingerprint import content_fingerprint, fingerprint
from m2dit_jax.weights.released import ReleasedModel
from m2dit_jax.weights.tokenizers import LostText, lost_text

_NETWORKS = ("vae", "text_encoder")
NETWORKS_USED = (*_NETWORKS, "tokenizer")
CONTENT = "weights_content"  # a setting; older versions had none


@runtime_checkable
class Codec(Protocol):
    """Turns scenes into the arrays of a dataset, a batch at a time."""

    batch_size: int

    def info(self, kind: str) -> EncodedInfo:
        """Of a dataset of "clips" or "stories"."""
        ...

    def settings(self) -> dict[str, Any]:
        """What the arrays depend on, as JSON; each value may be compared with another run's."""
        ...

    def load(self) -> None:
        """Reads the weights, the dearest of all checks."""
        ...

    def is_cut(self, caption: str) -> bool:
        """Whether only the begin of the caption is encoded."""
        ...

    def lost(self, caption: str) -> LostText:
        """The characters of the caption that the tokenizer does not know, and their share."""
        ...

    def encode(
        self, clips: UInt8[np.ndarray, "N F H W 3"], captions: Sequence[str]
    ) -> dict[str, Any]:
        """The arrays of `batch_size` scenes, perhaps still being computed; captions are not."""
        ...

    def empty_caption(self) -> BFloat16[np.ndarray, "T E"] | None:
        """Embeddings of ""; None if there are none."""
        ...


class PixelsCodec:
    """Frames as they are; a training tokenizes and encodes the captions itself."""

    batch_size = 1

    def __init__(self, frames: int, height: int, width: int):
        """Raises ValueError if a size is below 1."""
        if min(frames, height, width) < 1:
            raise ValueError(f"needs sizes of 1 or more, found {frames=} {height=} {width=}")
        self._size = frames, height, width

    def info(self, kind: str) -> EncodedInfo:
        """See `Codec`."""
        return EncodedInfo("pixels", kind, *self._size)

    def settings(self) -> dict[str, Any]:
        """See `Codec`."""
        return {}

    def load(self) -> None:
        """There is nothing to load."""

    def is_cut(self, caption: str) -> bool:
        """Never."""
        return False

    def lost(self, caption: str) -> LostText:
        """Nothing: the caption is kept as it is."""
        return LostText(0, len(caption), ())

    def encode(
        self, clips: UInt8[np.ndarray, "N F H W 3"], captions: Sequence[str]
    ) -> dict[str, Any]:
        """See `Codec`."""
        return {"pixels": clips}

    def empty_caption(self) -> None:
        """There is none."""


class VaeCodec:
    """The VAE and the T5 encoder of a released model, both loaded at once.

    So a scene is finished in one pass: with two, the embeddings of 250,000 captions, 1.85 MB each,
    would have to be kept somewhere. Both together take 10 GB in bfloat16, besides activations.
    A batch is cut along its scenes over all devices of this process.
    """

    def __init__(
        self,
        path: Path,
        frames: int | None,
        height: int | None,
        width: int | None,
        batch_size: int | None,
        dtype: str | None,
    ):
        """None stands for the model's own sizes, one scene a device, and the dtypes as stored.

        (float16 is cast all the same, as `ReleasedModel.cast_dtype` says.) Of the weights no
        numbers are read. Raises ValueError if the folder holds no such model, it cannot make scenes
        of that size, or the batch does not divide over the devices.
        """
        self.model = model = ReleasedModel(path)
        self._frames = frames = model.frames if frames is None else frames
        self._height = height = model.height if height is None else height
        self._width = width = model.width if width is None else width
        self._latent_shape = model.latent_shape(frames, height, width)
        self._tokenizer = model.tokenizer()
        model.check_weights(_NETWORKS)
        self._dtype = dtype or model.cast_dtype(_NETWORKS)
        devices = jax.local_devices()
        self.batch_size = len(devices) if batch_size is None else batch_size
        if self.batch_size < 1 or self.batch_size % len(devices):
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of the {len(devices)} devices"
            )
        mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
        self._cut = NamedSharding(mesh, PartitionSpec("data"))
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._loaded = False

    def info(self, kind: str) -> EncodedInfo:
        """See `Codec`."""
        return EncodedInfo(
            "vae",
            kind,
            self._frames,
            self._height,
            self._width,
            latent_shape=self._latent_shape,
            text_shape=(self.model.text_length, self.model.text_encoder_config.d_model),
            scaling_factor=self.model.vae_config.scaling_factor,
        )

    def settings(self) -> dict[str, Any]:
        """See `Codec`; the batch is among them because it may change how sums are rounded."""
        return {
            "model": str(self.model.path.resolve()),
            "weights": fingerprint(self.model.path, NETWORKS_USED),
            CONTENT: content_fingerprint(self.model.path, NETWORKS_USED),
            "dtype": self._dtype or "as stored",
            "batch_size": self.batch_size,
        }

    def load(self) -> None:
        """Raises ValueError if weights are missing or damaged; once is enough."""
        if self._loaded:
            return
        self._text = self._placed(self.model.text_encoder(self._dtype))
        self._vae: Vae = nnx.merge(*self._placed(self.model.vae(self._dtype)))
        self._loaded = True

    def is_cut(self, caption: str) -> bool:
        """Whether the caption has more tokens than the model reads."""
        return len(self._token_ids(caption)) > self.model.text_length

    def lost(self, caption: str) -> LostText:
        """See `Codec`."""
        return lost_text(self._tokenizer, caption)

    def encode(
        self, clips: UInt8[np.ndarray, "N F H W 3"], captions: Sequence[str]
    ) -> dict[str, Any]:
        """See `Codec`."""
        pixels = encode_pixels(jax.device_put(clips, self._cut))
        mean, logvar = encode_posterior(self._vae, pixels, self._latent_shape[0])
        arrays = {"mean": mean, "logvar": logvar, "text_embeds": self._embeds(captions)}
        return {name: array.astype(jnp.bfloat16) for name, array in arrays.items()}

    def empty_caption(self) -> BFloat16[np.ndarray, "T E"]:
        """See `Codec`."""
        # in a batch of the usual size, so that nothing is compiled for it alone
        embeds = self._embeds([""] * self.batch_size)[0]
        return np.asarray(embeds.astype(jnp.bfloat16))

    def _embeds(self, captions: Sequence[str]) -> Array:
        ids = [
            pad_or_truncate(self._tokenizer, self._token_ids(caption), self.model.text_length)
            for caption in captions
        ]
        return encode_prompts(self._text, jax.device_put(np.stack(ids)[:, None], self._cut))[:, 0]

    def _token_ids(self, caption: str) -> list[int]:
        return self._tokenizer(caption, verbose=False)["input_ids"]

    def _placed(self, network: LoadedNetwork) -> LoadedNetwork:
        return network._replace(params=jax.device_put(network.params, self._whole))
