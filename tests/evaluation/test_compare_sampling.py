import json

import pytest

from m2dit_jax.diffusion.options import SamplingOptions
from m2dit_jax.diffusion.samplers import SAMPLERS
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.evaluation.compare_sampling import compare_sampling, sampler_rows, saving_rows
from tests.engines import random_engine


@pytest.mark.slow
def test_the_tables_of_a_tiny_run(make_tiny_config):
    config = make_tiny_config()
    config.data.scenes, config.data.frames, config.data.size = 3, 3, 16
    config.model.patch_size_t = 3
    engine = random_engine(config)
    full = SamplingOptions(steps=2, guidance_scale=2.0)
    half = SamplingOptions(steps=2, guidance_scale=2.0, guidance_end=0.5)
    tables = compare_sampling(
        engine,
        {"dpm": SamplingOptions(sampler="dpm", steps=2)},
        {"full": full, "half": half},
        2,
        0,
        4,
    )
    lines = [line.split(" | ") for line in tables.to_markdown().splitlines()]
    dpm, first, second = lines[4], *lines[-2:]
    assert dpm[:2] == ["| dpm", "- / -"]
    assert first[:2] == ["| full", "4.0 / 4.0"] and first[3] == "0.000 / 0.000"
    assert second[:2] == ["| half", "3.0 / 3.0"] and 0 < float(second[2]) < 10
    content = json.loads(json.dumps(tables.to_json()))
    assert content["savings"][1]["generation"]["cost"]["full_evaluations"] == 4
    assert content["samplers"][0]["options"]["sampler"] == "dpm"


def test_all_samplers_and_the_full_run_first():
    options = SamplingOptions(steps=20, guidance_scale=2.0, cache_tolerance=0.3)
    # Euler takes the same steps as DDIM.
    sampled = {row.sampler for row in sampler_rows(options).values()}
    assert sampled == set(SAMPLERS) - {"euler"}
    savings = saving_rows(options)
    assert next(iter(savings.values())) == options.full()
    for row in [*sampler_rows(options).values(), *savings.values()]:
        row.table(NoiseSchedule())
