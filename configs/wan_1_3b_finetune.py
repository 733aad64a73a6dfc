"""Stage 2 of Mask²DiT (CVPR 2025, arXiv 2503.19881) with Wan 2.1 T2V 1.3B: stories, and extension.

The data are stories, each of three consecutive clips of one video; in half of them all scenes but
the last are given, at timestep 0, so that the last is learnt as their continuation.

Run: python -m m2dit_jax.train --config=configs/wan_1_3b_finetune.py --workdir=runs/wan_finetune \\
       --config.train.init_from=runs/wan_1_3b
The weights are those of stage 1; from the default, the released model, stage 1 would be left out.

Hardware and deviations: as in configs/wan_1_3b.py.
"""

from ml_collections import ConfigDict

from configs import wan_1_3b


def get_config() -> ConfigDict:
    """configs/wan_1_3b.py with given scenes."""
    config = wan_1_3b.get_config()
    config.train.given_probability = 0.5
    return config
