"""Stage 1 of Mask²DiT (CVPR 2025, arXiv 2503.19881) with Wan 2.2 T2V A14B: one of its transformers.

A14B has two, and each is trained by a run of its own, on the timesteps that are its own: this is
that of much noise, from 875 of 1,000 on; --config.train.expert=low_noise has the other. The data
are those of configs/wan_1_3b.py, encoded with this model.

Run: python -m m2dit_jax.train --config=configs/wan_a14b.py --workdir=runs/wan_high
Needs Wan2.2-T2V-A14B-Diffusers, as released or as `python -m m2dit_jax.convert` writes it, at
`config.train.init_from`. Adapters instead of all weights: --config.train.lora.rank=64.

Hardware: nothing of this size was run. A transformer has 14,288,491,584 parameters; in float32
they and AdamW's two moments are 160 GiB.

Deviations from the paper's scripts: as in configs/wan_1_3b.py.
"""

from ml_collections import ConfigDict

from configs import wan_1_3b


def get_config() -> ConfigDict:
    """configs/wan_1_3b.py with everything that Wan 2.2 A14B has different."""
    config = wan_1_3b.get_config()
    config.data.height, config.data.width = 720, 1280  # 90 x 160 latents

    config.model.layers = 40
    config.model.heads = 40
    config.model.hidden = 13824

    config.diffusion.boundary = 0.875

    config.train.init_from = "models/Wan2.2-T2V-A14B-Diffusers"
    config.train.expert = "high_noise"

    config.sample.steps = 40
    config.sample.guidance_scale = 4.0
    return config
