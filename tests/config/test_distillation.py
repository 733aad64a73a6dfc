import re

import pytest

from configs import base, distill_base
from m2dit_jax.config.schema import Config

STUDENT = {
    "distill.teacher": "runs/base",
    "sample.steps": 4,
    "sample.guidance_scale": 1.0,
    "distill.guidance_scale": 2.0,
}


def _config(**changes):
    config = base.get_config()
    config.update_from_flattened_dict(STUDENT | changes)
    return config


def test_without_a_teacher_nothing_is_checked_or_computed():
    config = Config.from_dict(_config(**{"distill.teacher": "", "sample.steps": 20}))
    assert config.distill.evaluations == 0 and config.first_weights == ""


def test_first_weights_are_the_teachers_unless_others_are_named():
    config = Config.from_dict(_config())
    assert (config.first_weights, config.first_weights_field) == (
        "runs/base",
        "config.distill.teacher",
    )
    config = Config.from_dict(_config(**{"train.init_from": "runs/other"}))
    assert (config.first_weights, config.first_weights_field) == (
        "runs/other",
        "config.train.init_from",
    )


def test_the_target_of_a_step_takes_three_evaluations_or_without_guidance_two():
    assert Config.from_dict(_config()).distill.evaluations == 3
    plain = _config(**{"distill.guidance_scale": 1.0, "sample.guidance_scale": 2.0})
    assert Config.from_dict(plain).distill.evaluations == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample.steps": 20}, "config.sample.steps must be 4 with config.distill, got 20"),
        ({"sample.spacing": "log_snr"}, "sample.spacing must be 'trailing' with config.distill"),
        ({"sample.sampler": "dpm"}, "config.sample.sampler must be 'ddim' with config.distill"),
        ({"sample.guidance_scale": 2.0}, "config.sample.guidance_scale must be 1.0 with"),
        ({"train.validate_every": 100}, "config.train.validate_every must be 0 with"),
        ({"train.log_snr_share": 0.5}, "config.train.log_snr_share must be 0 with"),
        ({"distill.teacher_steps": 18}, "teacher_steps must be a multiple of config.distill.steps"),
        ({"distill.teacher_steps": 1004}, "and at most config.diffusion.timesteps 1000, got 1004"),
    ],
)
def test_what_does_not_go_with_a_teacher(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Config.from_dict(_config(**changes))


def test_the_students_config_has_the_teachers_sampling_as_its_task():
    config = base.get_config()
    config.sample.update(spacing="log_snr", guidance_end=0.5, clip_x0=1.0)
    student = Config.from_dict(distill_base.distill(config, "runs/x", steps=2))
    distill, sample = student.distill, student.sample
    assert (distill.teacher, distill.steps, distill.teacher_steps) == ("runs/x", 2, 10)
    assert (distill.guidance_scale, distill.guidance_end, distill.clip_x0) == (2.0, 0.5, 1.0)
    assert (sample.steps, sample.spacing, sample.guidance_scale) == (2, "log_snr", 1.0)
    assert student.train.caption_dropout == 0
