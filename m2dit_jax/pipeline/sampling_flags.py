"""Flags of the commands for how stories are sampled, one for each field of SamplingOptions."""

import argparse

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import SAMPLERS

FLAGS = (
    *("sampler", "steps", "guidance_scale", "dynamic_guidance", "guidance_start", "guidance_end"),
    *("reuse_uncond", "given_guidance_scale", "cache_tolerance"),
)


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Each is None if it is not given: the checkpoint's own setting, or none."""
    group = parser.add_argument_group("sampling, instead of the settings of storyboard or model")
    group.add_argument("--sampler", choices=SAMPLERS, help="default ddim")
    group.add_argument("--steps", type=int, help="of the sampler")
    group.add_argument("--guidance_scale", type=float, help="1 is no guidance")
    group.add_argument(
        "--dynamic_guidance", action=argparse.BooleanOptionalAction, help="grows over the steps"
    )
    group.add_argument(
        "--guidance_start", type=float, help="share of the steps before guidance, default 0"
    )
    group.add_argument(
        "--guidance_end", type=float, help="share of the steps where guidance ends, default 1"
    )
    group.add_argument(
        "--reuse_uncond",
        type=int,
        help="evaluate the unconditional branch at every so-manieth step only, default 1",
    )
    group.add_argument(
        "--given_guidance_scale",
        type=float,
        help="guidance by given scenes, with a third evaluation each step; default: none",
    )
    group.add_argument(
        "--cache_tolerance",
        type=float,
        help="leave out steps over which the prediction changes by less than this share, default 0",
    )


def with_flags(options: SamplingOptions, flags: argparse.Namespace) -> SamplingOptions:
    """The options with the values of those flags that were given."""
    given = {name: getattr(flags, name) for name in FLAGS if getattr(flags, name) is not None}
    return options.replace(**given)


def flags_given(flags: argparse.Namespace) -> list[str]:
    """The flags as they would be typed."""
    typed = []
    for name in FLAGS:
        value = getattr(flags, name)
        if value is not None:
            typed.append(
                f"--{'' if value else 'no-'}{name}"
                if isinstance(value, bool)
                else f"--{name}={value}"
            )
    return typed
