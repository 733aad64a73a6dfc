"""Stage 1 of Mask²DiT (CVPR 2025, arXiv 2503.19881) with Wan 2.1 T2V 1.3B: three scenes at once.

The paper has no such model: its first stage, on the network, latents and flow matching of Wan. The
data are stories put together at random from three clips that have nothing to do with each other.

Run: python -m m2dit_jax.train --config=configs/wan_1_3b.py --workdir=runs/wan_1_3b
on folders that the encode command wrote with the model's own VAE and text encoder
(`config.data.paths`). Needs Wan2.1-T2V-1.3B-Diffusers, as released or as
`python -m m2dit_jax.convert` writes it, at `config.train.init_from`. Adapters instead of all
weights, for one card: --config.train.lora.rank=64.

Hardware: nothing of this size was run. The model has 1,418,996,800 parameters; in float32 they and
AdamW's two moments are 16 GiB, and the gradients 5 GiB more while a step is computed. A story is
98,280 video tokens: three scenes of 81 frames of 480x832.

Deviations from the paper's scripts, beside those of configs/pretrain_5b.py: timesteps are drawn
with the shift that the model is sampled with, 3; norms and timesteps are computed in float32.
"""

from ml_collections import ConfigDict

from configs import pretrain_5b


def get_config() -> ConfigDict:
    """configs/pretrain_5b.py with everything that Wan 2.1 1.3B has different."""
    config = pretrain_5b.get_config()
    config.data.frames = 81  # 21 latent frames
    config.data.height, config.data.width = 480, 832  # 60 x 104 latents
    config.data.text_length = 512

    config.model.family = "wan"
    config.model.layers = 30
    config.model.heads = 12
    config.model.head_dim = 128
    config.model.hidden = 8960
    config.model.time_dim = 256
    config.model.base_grid = ()
    config.model.spatial_scale = 1.0

    config.diffusion.kind = "flow"
    config.diffusion.shift = 3.0

    config.train.init_from = "models/Wan2.1-T2V-1.3B-Diffusers"
    config.train.timestep_shift = 3.0

    config.sample.sampler = "unipc"
    config.sample.guidance_scale = 5.0
    config.sample.fps = 16.0
    return config
