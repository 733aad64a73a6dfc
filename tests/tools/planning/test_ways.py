"""Plans of sampling by policy of memory and form of the weights."""

import json
from dataclasses import replace

import pytest

from m2dit_jax import plan
from m2dit_jax.config.recipe import build_recipe
from m2dit_jax.tools.planning import stages
from m2dit_jax.tools.planning.planner import all_resident, make_plan, sampling_ways
from m2dit_jax.tools.planning.programs import Way, make_program
from m2dit_jax.tools.planning.report import Stage
from m2dit_jax.tools.planning.topologies import open_topology
from tests.tools.planning.test_stages import latents_run

__all__ = ["latents_run"]


@pytest.fixture
def recipe(latents_run):
    latents_run.model.layers, latents_run.sample.guidance_scale = 4, 3.0
    return build_recipe(latents_run)


def test_streamed_and_quantised_programs_hold_less(recipe):
    machine = open_topology("cpu:1")
    ways = [Way(), Way(quantize="int8"), Way("stream"), Way("stream", True, "int8")]
    made = [make_program(recipe, machine, "sample", "float32", way) for way in ways]
    held = [program.parts["parameters"] for program in made]
    assert held[0] > held[1] and held[0] > held[2] > held[3]
    assert [program.runs for program in made] == [(1,), (1,), (1, 4, 1), (2, 8, 2)]
    # Of four blocks two are on the device.
    assert made[2].streamed == 2 * (held[0] - held[2])
    assert len({program.model_flops for program in made}) == 1


def test_the_first_way_that_fits_is_planned(recipe, monkeypatch):
    monkeypatch.setattr(stages, "other_stages", lambda *how: ())
    machine = open_topology("cpu:1")
    roomy = make_plan(recipe, machine, "sample", "float32", memory="auto")
    assert roomy.fits and roomy.way.startswith("offload, weights not quantised")
    chip = replace(machine.chip, memory_bytes=int(0.8 * roomy.peak_bytes), host_bandwidth=1e9)
    tight = make_plan(recipe, replace(machine, chip=chip), "sample", "float32", memory="auto")
    assert tight.way != roomy.way and tight.most_bytes < roomy.most_bytes
    streamed = make_plan(recipe, replace(machine, chip=chip), "sample", "float32", memory="stream")
    assert streamed.transfer_seconds == streamed.streamed_bytes / 1e9 > 0
    assert "from the host in a step" in streamed.to_text()


def test_a_text_encoder_that_is_too_large_works_on_the_cpu(recipe):
    machine = open_topology("cpu:1")
    whole = stages.other_stages(recipe, machine, "float32", "int8")[0]
    chip = replace(machine.chip, memory_bytes=whole.peak_bytes)  # of which a tenth stays free
    small = stages.other_stages(recipe, replace(machine, chip=chip), "float32", "int8")[0]
    assert (small.name, small.peak_bytes) == ("text encoder on the CPU", 0)


def test_resident_networks_add_up():
    made = all_resident((Stage("a", 5, 3), Stage("b", 10, 4)))
    assert [stage.peak_bytes for stage in made] == [9, 13]


def test_ways_of_several_devices(recipe):
    one = open_topology("cpu:1")
    machine = replace(one, devices=one.devices * 2)
    assert sampling_ways("auto", machine, recipe) == [("offload", False), ("offload", True)]
    with pytest.raises(ValueError, match="--memory=stream is for one device"):
        sampling_ways("stream", machine, recipe)


def test_flags_of_sampling_are_refused_elsewhere(capsys):
    assert plan.main(["--topology=cpu:1", "--config=base", "--quantize=int8"]) == 2
    assert "--quantize is for --mode=sample, found --mode=train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plan.main(["--topology=cpu:1", "--memory=much"])
    assert json.dumps(plan.POLICIES)
