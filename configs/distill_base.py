"""configs/base.py's model distilled: 4 evaluations a story, with guidance learnt, instead of 30.

Run: python -m m2dit_jax.train --config=configs/distill_base.py --workdir=runs/distill_base
after the run of configs/base.py, which is the teacher (`config.distill.teacher`).

Any model here can be distilled so: `distill` changes what is different of its config.

Hardware: 2 cores of an AMD EPYC, no accelerator: 3.3 steps/s, so 5 minutes. Scores: after 200 steps
27.7 dB and all accuracies 100 per cent in generation (docs/few_steps.md); the whole run was not
measured, and shapes from prompts leave nothing to distil.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py as the student of its run."""
    config = distill(base.get_config(), "runs/base")
    config.train.steps = 1000
    config.train.learning_rate = 1e-3
    config.train.text_encoder_share = 1.0  # as its figures were measured
    config.train.warmup_steps = 50
    config.train.ema_decay = 0.99
    return config


def distill(config: ConfigDict, teacher: str, steps: int = 4) -> ConfigDict:
    """The config of a model changed to that of its student in so many sampling steps.

    The teacher takes five times as many, with the guidance that the config samples with.
    """
    sample = config.sample
    config.distill.update(
        teacher=teacher,
        steps=steps,
        spacing=sample.spacing,
        teacher_steps=5 * steps,
        guidance_scale=sample.guidance_scale,
        guidance_end=sample.guidance_end,
        clip_x0=sample.clip_x0,
    )
    sample.update(
        steps=steps,
        sampler="ddim",
        guidance_scale=1.0,
        guidance_start=0.0,
        guidance_end=1.0,
        guidance_rescale=0.0,
    )
    # The guidance is the teacher's, which has learnt what a story without prompts is.
    config.train.caption_dropout = config.train.scene_caption_dropout = 0.0
    config.train.validate_every = 0  # the loss of a student says nothing about the data
    config.train.log_snr_share = 0.0
    return config
