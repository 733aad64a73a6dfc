import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2dit_jax.models.families import DEFAULT
from m2dit_jax.pipeline.memory_plan import (
    MOST_MEMORY,
    MemoryPlan,
    Needs,
    advice,
    choose_plan,
    param_bytes,
)
from tests.weights.tiny_models import BFLOAT16, CONFIGS

GIB = 2**30
# CogVideoX-5B, three scenes of 49 x 480 x 720 with guidance on a GPU.
FIVE_B = dict(outside=0.2, blocks=42, vae=0.4, tokens=0.305, rows=2, decoding=9.7, activations=7.5)


def needs(block=0.2475, text_encoder=8.9, **changes):
    values = FIVE_B | {"block": block, "text_encoder": text_encoder} | changes
    plain = ("blocks", "rows", "activations")
    return Needs(**{k: v if k in plain else int(v * GIB) for k, v in values.items()})


BFLOAT, EIGHT_BITS = needs(), needs(0.124, 4.5)


@pytest.mark.parametrize(
    ("card", "quantised", "way"),
    [
        (80, False, ("resident", False, False)),
        (40, False, ("resident", False, False)),
        (24, False, ("offload", False, False)),
        (16, False, ("offload", True, False)),
        (16, True, ("offload", False, False)),
        (12, True, ("offload", False, False)),
        (10, True, ("offload", True, False)),
        (8, True, ("stream", False, False)),
        (8, False, ("stream", False, True)),
    ],
)
def test_the_quickest_way_that_fits_is_taken(card, quantised, way):
    plan = choose_plan("auto", EIGHT_BITS if quantised else BFLOAT, card * GIB)
    assert plan.fits and plan.placing == way
    assert f"of {card}.0 GiB" in plan.to_text() and plan.policy in plan.to_text()


def test_where_no_limit_is_known_networks_take_turns():
    assert choose_plan("auto", BFLOAT, None).placing == ("offload", False, False)
    assert choose_plan("resident", BFLOAT, None).placing == ("resident", False, False)
    assert choose_plan("turns", BFLOAT, 80 * GIB).policy == "offload"


def test_what_was_asked_for_is_kept_and_what_would_fit_is_told():
    plan = choose_plan("resident", BFLOAT, 16 * GIB)
    assert plan.policy == "resident" and not plan.fits
    line = advice(plan, lambda form: EIGHT_BITS if form else BFLOAT, True)
    assert "--memory=auto would: memory: offload" in line
    small = choose_plan("auto", BFLOAT, 5 * GIB, host_works=False, streams=False)
    line = advice(small, lambda form: EIGHT_BITS if form else BFLOAT, True)
    assert not small.fits and "--quantize=int8 would" in line or "--memory=auto" in line
    nothing = choose_plan("auto", BFLOAT, GIB)
    assert "fewer or smaller scenes" in advice(nothing, lambda form: BFLOAT, True)


@given(st.integers(1, 100), st.booleans(), st.booleans(), st.sampled_from(["auto", "offload"]))
def test_a_plan_that_fits_is_below_the_limit(card, host_works, streams, memory):
    plan = choose_plan(memory, BFLOAT, card * GIB, host_works, streams)
    largest = max(size for name, size in plan.stages.items() if name != "VAE")
    assert plan.fits == (largest <= MOST_MEMORY * card * GIB)
    assert host_works or not plan.text_on_host
    assert streams or plan.policy != "stream"
    if not plan.fits:  # then no other way of these takes less
        ways = [("offload", True, host_works)] + [("stream", True, host_works)] * (
            streams and memory == "auto"
        )
        others = [MemoryPlan(*way, BFLOAT.stages(*way), card * GIB) for way in ways]
        assert not any(other.fits for other in others)


def test_bytes_of_parameters_count_8_bits_as_such():
    network = DEFAULT.transformer
    config = network.config(CONFIGS["transformer"])
    plain, small = (network.shapes(config, form)[1] for form in (None, "int8"))
    assert param_bytes(plain, BFLOAT16) * 2 == param_bytes(plain, np.dtype(np.float32))
    kernels = 3 * (2 * 4 * 96 + 4 * 16 * 16 + 2 * 16 * 64)
    scales = 4 * 3 * (2 * 96 + 4 * 16 + 64 + 16)
    assert param_bytes(plain, BFLOAT16) - param_bytes(small, BFLOAT16) == kernels - scales
