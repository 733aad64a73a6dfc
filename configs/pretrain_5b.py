"""Mask²DiT (CVPR 2025, arXiv 2503.19881), stage 1: CogVideoX-5B learns to make three scenes.

The data are stories put together at random from three clips that have nothing to do with each
other; no scene is given.

Run: python -m m2dit_jax.train --config=configs/pretrain_5b.py --workdir=runs/pretrain_5b
on folders that the encode command wrote (`config.data.paths`). Needs CogVideoX-5b, as released or
as `python -m m2dit_jax.convert` writes it, at `config.train.init_from`.

Hardware: nothing of this size was run. The model has 5,570,283,072 parameters; in float32 they and
AdamW's two moments are 62 GiB, and the gradients 21 GiB more while a step is computed, all of it
spread over the devices. A story is 53,328 tokens and 7.8 PFLOP. docs/memory.md has what a
step takes of some machines according to their compilers (python -m m2dit_jax.plan).

The settings are those of the paper's scripts, among them AdamW with decay of everything, clipping
at 0.05, a story on each of 8 devices, all stories with the same weight, and no averaged weights
(`--config.train.ema_decay=0.9999` would keep them, for 21 GiB more). Different here:
- Captions are dropped for a tenth of the stories. The scripts drop none, although they sample with
  guidance, whose unconditional branch then has not been trained.
- The number of steps is a choice: the scripts say 100 epochs, of data whose size they do not say.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with everything that CogVideoX-5B and the first stage have different."""
    config = base.get_config()
    config.data.source = "latents"
    config.data.scenes = 3
    config.data.frames = 49  # 13 latent frames
    config.data.height, config.data.width = 480, 720  # 60 x 90 latents
    config.data.text_length = 226

    config.model.layers = 42
    config.model.heads = 48
    config.model.head_dim = 64
    config.model.time_dim = 512
    config.model.patch_size = 2
    config.model.patch_size_t = 1
    config.model.rotary = True
    config.model.added_positions = False
    config.model.base_grid = (13, 30, 45)  # 49 frames of 480x720
    config.model.spatial_scale = 1.875  # in its config.json too, although it has nothing to divide
    config.model.scan = True
    config.model.remat = "full"

    config.diffusion.snr_shift = 1.0
    config.diffusion.prediction = "v"

    config.train.steps = 10_000
    config.train.batch_size = 8
    config.train.compute_dtype = "bfloat16"
    config.train.init_from = "models/CogVideoX-5b"
    config.train.optimizer = "adamw"
    config.train.learning_rate = 1e-5
    config.train.warmup_steps = 100
    config.train.schedule = "constant"
    config.train.adam_b2 = 0.999
    config.train.adam_eps = 1e-10
    config.train.weight_decay = 3e-2
    config.train.decayed = "all"
    config.train.clip_norm = 0.05
    config.train.ema_decay = 0.0
    config.train.given_probability = 0.0
    config.train.given_scenes = "all_but_last"
    config.train.caption_dropout = 0.1
    config.train.loss_weighting = "story"
    config.train.log_every = 5
    config.train.checkpoint_every = 1000
    config.train.checkpoint_minutes = 20.0
    config.train.eval_every = 0  # only shapes stories can be scored

    config.mesh.data = 1
    config.mesh.fsdp = 8  # a story for each of 8 devices or groups of devices
    config.mesh.context = -1  # so many devices in a group

    config.sample.steps = 50
    config.sample.guidance_scale = 6.0
    config.sample.guidance_end = 1.0
    config.sample.fps = 8.0
    return config
