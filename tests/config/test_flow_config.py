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
    del old["train"]["expert"]
    for name in ("kind", "shift", "boundary"):
        old["diffusion"].pop(name, None)
    assert isinstance(make_schedule(Config.from_dict(old).diffusion), NoiseSchedule)


EXPERT = {
    **{"model.family": "wan", "model.hidden": 24, "model.added_positions": False},
    **{"diffusion.kind": "flow", "diffusion.boundary": 0.875, "train.expert": "low_noise"},
    **{"data.source": "latents", "data.width": 736, "model.patch_size_t": 1},
}


def test_each_expert_has_its_share_of_the_timesteps(tiny_config):
    low = changed(tiny_config, **EXPERT)
    high = changed(tiny_config, **{"train.expert": "high_noise"})
    assert (low.trained_timesteps, high.trained_timesteps) == (range(875), range(875, 1000))
    assert (low.transformer_folder, high.transformer_folder) == ("transformer_2", "transformer")
    assert build_recipe(low).schedule.boundary_timestep == 875
    alone = changed(tiny_config, **{"train.expert": "", "diffusion.boundary": 0.0})
    assert (alone.trained_timesteps, alone.transformer_folder) == (range(1000), "transformer")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.expert": ""}, "needs both or neither, got '' and 0.875"),
        ({"diffusion.boundary": 0.0}, "needs both or neither, got 'low_noise' and 0"),
        ({"diffusion.boundary": 1.0, "train.expert": "high_noise"}, "no timesteps to 'high_noise'"),
        ({"diffusion.boundary": 0.9999, "train.expert": "high_noise"}, "leaves no timesteps to"),
        ({"model.family": "cogvideox", "model.hidden": 0}, "'cogvideox' have one transformer"),
        ({"train.preview_every": 5}, "preview_every must be 0 with config.train.expert"),
        ({"diffusion.kind": "diffusion"}, "boundary must be 0 with config.diffusion.kind 'diffus"),
    ],
)
def test_what_does_not_go_with_an_expert_is_refused(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        changed(tiny_config, **EXPERT | changes)


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
