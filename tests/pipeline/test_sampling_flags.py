import argparse

import pytest

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.pipeline.sampling_flags import FLAGS, add_sampling_flags, flags_given, with_flags


def parse(*typed):
    parser = argparse.ArgumentParser()
    add_sampling_flags(parser)
    return parser.parse_args(typed)


def test_only_what_is_typed_changes_the_options():
    options = SamplingOptions(steps=20, guidance_scale=2.0, dynamic_guidance=True)
    assert with_flags(options, parse()) == options
    assert flags_given(parse()) == []


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("--sampler=unip_3", "sampler", "unip_3"),
        ("--steps=7", "steps", 7),
        ("--guidance_scale=1.0", "guidance_scale", 1.0),
        ("--dynamic_guidance", "dynamic_guidance", True),
        ("--no-dynamic_guidance", "dynamic_guidance", False),
        ("--guidance_start=0.0", "guidance_start", 0.0),
        ("--guidance_end=0.5", "guidance_end", 0.5),
        ("--reuse_uncond=3", "reuse_uncond", 3),
        ("--given_guidance_scale=1.5", "given_guidance_scale", 1.5),
        ("--cache_tolerance=0.1", "cache_tolerance", 0.1),
    ],
)
def test_every_flag_sets_its_field_and_can_be_typed_again(typed, name, value):
    flags = parse(typed)
    assert getattr(with_flags(SamplingOptions(), flags), name) == value
    assert flags_given(flags) == [typed]


def test_every_field_but_the_reference_defects_has_a_flag():
    assert set(FLAGS) == set(vars(SamplingOptions())) - {"as_reference"}
