import json
from dataclasses import replace

import pytest

from m2dit_jax.tools.planning.collectives import Collective
from m2dit_jax.tools.planning.report import Figures, Plan, Stage
from m2dit_jax.tools.planning.roofline import Roofline
from m2dit_jax.utils.chips import CHIPS

GATHER = Collective("all-gather", 5, 2, 8, 8.0, (16, 4), "bf16", "all-gather.1", "jit(f)/dot")
FIGURES = Figures(
    compiled_flops=110,
    kernel_flops=20,
    collective_bytes={"all-gather": 10},
    largest_collectives=(GATHER,),
    gathered_activations=(),
    memory_traffic_bytes=1000,
    roofline=Roofline(3.0, 2.0, 1.0),
    compile_seconds=4.0,
    unknown_loops=(),
)
PLAN = Plan(
    topology="h100:8",
    mode="train",
    chip=CHIPS["h100"],
    devices=8,
    mesh={"data": 1, "fsdp": 8, "context": 1},
    stories=8,
    remat="full",
    attention="cudnn",
    peak_bytes=20 * 2**30,
    parts={"parameters": 2**30, "activations": 19 * 2**30},
    model_flops=90,
    required_flops=100,
    least_bytes={"all-gather": 8},
    figures=FIGURES,
    advice=(),
)


def test_json_has_the_keys_that_scripts_read():
    out = json.loads(json.dumps(PLAN.to_json()))
    assert out["fits"] is True and out["peak_bytes_per_device"] == 20 * 2**30
    assert out["hbm_bytes_per_device"] == CHIPS["h100"].memory_bytes
    assert (out["model_flops"], out["compiled_flops"], out["asked_flops"]) == (90, 110, 100)
    assert out["collective_bytes"] == {"all-gather": 10}
    assert (out["roofline_seconds"], out["compile_seconds"]) == (3.0, 4.0)
    assert out["largest_collectives"][0]["shape"] == [16, 4]


def test_a_margin_must_be_left():
    full = replace(PLAN, peak_bytes=int(0.95 * CHIPS["h100"].memory_bytes))
    assert not full.fits and full.margin == pytest.approx(0.05)


def test_what_could_not_be_compiled_has_no_figures():
    plan = replace(PLAN, figures=None, peak_bytes=2**37, advice=("smaller",))
    out = plan.to_json()
    assert (out["fits"], out["compiled_flops"], out["roofline_seconds"]) == (False, None, None)
    assert "does NOT fit" in plan.to_text() and "to make it fit: smaller" in plan.to_text()


def test_text_says_how_far_from_the_least():
    text = PLAN.to_text()
    assert "attention cudnn, remat" in text
    filled = replace(PLAN, heads="30 heads filled up to 32").to_text()
    assert "attention cudnn (30 heads filled up to 32), remat" in filled
    assert "1.100 of that" in text and "1.250 of the least" in text
    assert "75% free" in text and "fits" in text and "3 s (compute)" in text
    gathered = replace(PLAN, figures=replace(FIGURES, gathered_activations=(GATHER,)))
    assert "a whole activation is gathered: all-gather.1" in gathered.to_text()
    assert "a whole activation" not in text


def test_a_run_takes_what_its_largest_stage_takes():
    stages = (Stage("denoising step", 20 * 2**30, 2**30), Stage("text encoder", 2**35, 2**34))
    plan = replace(PLAN, mode="sample", stages=stages)
    out = plan.to_json()
    assert out["peak_bytes_per_device"] == 2**35
    assert out["stages"]["text encoder"] == {"peak_bytes": 2**35, "weight_bytes": 2**34}
    assert "each stage in GiB: denoising step 20.00, text encoder 32.00" in plan.to_text()
    assert not replace(plan, stages=(*stages, Stage("decoding", 2**37, 1))).fits
