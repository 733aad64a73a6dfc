"""The shape of Wan's VAE, and how `vae/config.json` describes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from m2dit_jax.models.json_reading import raise_problems, read_json
from m2dit_jax.utils.options import Options, option

_Width = Annotated[int, Field(ge=1, le=2**14)]
_Colours = Annotated[int, Field(ge=1, le=1024)]
_Stages = Field(min_length=1, max_length=8)
_Number = Annotated[float, Field(ge=-1e6, le=1e6)]
_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
# Attention in the blocks is in the classes of diffusers and in no released model.
_FIXED = {"attn_scales": [], "dropout": 0.0}


class VaeJson(Options, frozen=True):
    """`vae/config.json`; a missing key means what it means in diffusers."""

    base_dim: _Width = option(96, "Features at the full size.")
    decoder_base_dim: _Width | None = option(
        None, "The same of the decoder.", needed="null or a whole number, from 1 to 16384"
    )
    z_dim: _Width = option(16, "Channels of the latents.")
    dim_mult: Annotated[tuple[_Width, ...], _Stages] = option(
        (1, 2, 4, 4), "Features of each block, in base_dim.", needed="a list of 1 to 8 numbers"
    )
    num_res_blocks: Annotated[int, Field(ge=1, le=64)] = option(2, "Layers of a block.")
    temperal_downsample: Annotated[tuple[bool, ...], Field(max_length=8)] = option(
        (False, True, True), "Whether a block halves time too.", needed="a list of true and false"
    )
    is_residual: bool = option(False, "Whether blocks have a path of means around them (Wan 2.2).")
    in_channels: _Colours = option(3, "Colours that go in, those of a patch.")
    out_channels: _Colours = option(3, "Colours that come out, those of a patch.")
    patch_size: Annotated[int, Field(ge=1, le=64)] | None = option(
        None, "Rows and columns of a patch.", needed="null or a whole number, from 1 to 64"
    )
    latents_mean: Annotated[tuple[_Number, ...], Field(min_length=1, max_length=2**14)] = option(
        _MEAN, "Mean of each channel of the latents.", needed="a list of numbers"
    )
    latents_std: Annotated[tuple[_Number, ...], Field(min_length=1, max_length=2**14)] = option(
        _STD, "Standard deviation of each channel.", needed="a list of numbers"
    )


@dataclass(frozen=True)
class WanVaeConfig:
    """Shape of the VAE; names as in diffusers' AutoencoderKLWan.

    The transformer's latents are the VAE's less `latents_mean`, over `latents_std`.
    """

    base_dim: int
    z_dim: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temperal_downsample: tuple[bool, ...]
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]
    decoder_base_dim: int | None = None
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None

    def __post_init__(self) -> None:
        problems = vae_problems(self)
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.z_dim

    @property
    def patch(self) -> int:
        """Rows and columns of pixels that are channels of one."""
        return self.patch_size or 1

    @property
    def colours(self) -> int:
        """Channels of a video."""
        return self.in_channels // self.patch**2

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent in height and in width."""
        return self.patch * 2 ** len(self.temperal_downsample)

    @property
    def temporal_compression_ratio(self) -> int:
        """Frames per latent frame, but for the first, which is one frame."""
        return 2 ** sum(self.temperal_downsample)

    @property
    def scaling_factor(self) -> float:
        """1: the latents that leave the VAE are the transformer's."""
        return 1.0

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Features before the first block and after each."""
        return tuple(self.base_dim * times for times in (1, *self.dim_mult))

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Features before the first block and after each."""
        base, times = self.decoder_base_dim or self.base_dim, self.dim_mult[::-1]
        return tuple(base * each for each in (times[0], *times))


def vae_problems(config: WanVaeConfig) -> list[str]:
    """A line for each thing that does not go together."""
    problems = []
    if len(config.temperal_downsample) != len(config.dim_mult) - 1:
        problems.append(
            f"temperal_downsample needs one entry less than dim_mult {list(config.dim_mult)}, "
            f"found {list(config.temperal_downsample)}"
        )
    for name in ("in_channels", "out_channels"):
        channels = getattr(config, name)
        if channels != 3 * config.patch**2:
            problems.append(f"{name}: found {channels}, needs 3 x patch_size ({config.patch}) ^ 2")
    for name in ("latents_mean", "latents_std"):
        if len(getattr(config, name)) != config.z_dim:
            problems.append(
                f"{name} needs z_dim {config.z_dim} numbers, found {len(getattr(config, name))}"
            )
    if min(config.latents_std, default=1) <= 0:
        problems.append(f"latents_std must be positive, found {min(config.latents_std):g}")
    if problems:
        return problems
    return _width_problems(config)


def _width_problems(config: WanVaeConfig) -> list[str]:
    """Blocks whose means, or whose halves, are of no whole number of features."""
    widths = config.decoder_widths
    if not config.is_residual:
        odd = [width for width in widths[1:-1] if width % 2]
        return [f"dim_mult and base_dim: {odd[0]} features cannot be halved"] if odd else []
    problems = []
    in_time = config.temperal_downsample
    ways = (
        ("encoder", config.encoder_widths, in_time, False),
        ("decoder", widths, in_time[::-1], True),
    )
    for what, features, halves, grows in ways:
        for index, (one, other) in enumerate(zip(features, features[1:], strict=False)):
            last = index == len(halves)
            if last and grows:
                continue
            factor = 1 if last else 4 * (2 if halves[index] else 1)
            of, into = (other, one) if grows else (one, other)
            if of * factor % into:
                problems.append(
                    f"dim_mult: {one} to {other} features in block {index} of the {what} have no "
                    "path of means"
                )
    return problems


def vae_config(json: Mapping[str, Any]) -> WanVaeConfig:
    """The VAE of a `vae/config.json`. Raises ValueError for a variant that does not exist here."""
    values = read_json("vae", VaeJson, json, _FIXED)
    try:
        config = WanVaeConfig(**values)
    except ValueError as error:
        raise_problems("vae", [str(error)])
        raise
    told = {
        "scale_factor_spatial": config.spatial_compression,
        "scale_factor_temporal": config.temporal_compression_ratio,
    }
    problems = [
        f"{key}: found {str(json[key])[:40]}, the blocks and patches make {made}"
        for key, made in told.items()
        if json.get(key, made) != made
    ]
    raise_problems("vae", problems)
    return config
