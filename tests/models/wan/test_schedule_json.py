"""Wan's scheduler_config.json, read and written."""

import math

import pytest

from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.schedule import NoiseSchedule
from m2dit_jax.models.wan.schedule_json import noise_schedule, sampler_name, schedule_json

UNIPC = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
    "timestep_spacing": "linspace",
}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0}


def test_both_samplers_are_read():
    assert noise_schedule(UNIPC) == FlowSchedule(1000, 3.0, "trailing")
    assert noise_schedule(EULER) == FlowSchedule(1000, 5.0, "linspace")
    assert (sampler_name(UNIPC), sampler_name(EULER)) == ("unipc", "euler")


@pytest.mark.parametrize("base", [UNIPC, EULER])
def test_what_is_written_is_read_again(base):
    schedule = noise_schedule(base)
    assert schedule_json(schedule, base) == base | {"num_train_timesteps": 1000}
    other = FlowSchedule(500, 7.0, schedule.spacing)
    assert noise_schedule(schedule_json(other, base)) == other
    with pytest.raises(ValueError, match="config.diffusion.kind 'flow'"):
        schedule_json(NoiseSchedule(), base)


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (UNIPC, {"prediction_type": "epsilon"}, "prediction_type must be 'flow_prediction'"),
        (UNIPC, {"solver_order": 3}, "solver_order must be 2, got 3"),
        (UNIPC, {"flow_shift": None}, "flow_shift"),
        (UNIPC, {"flow_shift": math.nan}, "flow_shift"),
        (UNIPC, {"num_train_timesteps": 1}, "num_train_timesteps"),
        (EULER, {"shift": 0}, "shift"),
        (EULER, {"use_dynamic_shifting": True}, "use_dynamic_shifting must be False"),
        (EULER, {"_class_name": "DDIMScheduler"}, "_class_name must be one of"),
        ({"_class_name": "UniPCMultistepScheduler"}, {}, "prediction_type is missing"),
    ],
)
def test_other_variants_are_refused_in_one_line(base, change, message):
    with pytest.raises(ValueError, match=message) as error:
        noise_schedule(base | change)
    assert "\n" not in str(error.value)
