"""config.diffusion.kind: what belongs to flows only, and what flows have not."""

import pytest

from m2dit_jax.config.recipe import build_recipe, make_schedule
from m2dit_jax.config.schema import Config
from m2dit_jax.diffusion.flow import FlowSchedule
from m2dit_jax.diffusion.schedule import NoiseSchedule


def changed(tiny_config, **changes):
    tiny_config.diffusion.prediction = "v"
    tiny_config.sample.spacing = "trailing"
    tiny_config.update_from_flattened_dict(changes)
    return Config.from_dict(tiny_config)


def test_without_a_kind_it_is_diffusion_as_before(tiny_config):
    old = tiny_config.to_dict()
    for name in ("kind", "shift"):
        old["diffusion"].pop(name, None)
    assert isinstance(make_schedule(Config.from_dict(old).diffusion), NoiseSchedule)


def test_a_flow_has_its_shift(tiny_config):
    config = changed(tiny_config, **{"diffusion.kind": "flow", "diffusion.shift": 3.0})
    assert build_recipe(config).schedule == FlowSchedule(config.diffusion.timesteps, 3.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion.shift": 3.0}, "config.diffusion.shift must be 1 with"),
        ({"train.timestep_shift": 3.0}, "config.train.timestep_shift must be 1 with"),
        ({"diffusion.kind": "flow", "diffusion.prediction": "x0"}, "prediction must be 'v' with"),
        ({"diffusion.kind": "flow", "sample.spacing": "log_snr"}, "spacing must be 'trailing' or"),
        ({"diffusion.kind": "flow", "distill.teacher": "runs/a"}, "teacher must be '' with"),
    ],
)
def test_choices_of_the_other_kind_are_refused(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        changed(tiny_config, **changes)
