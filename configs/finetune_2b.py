"""Stage 2 of Mask²DiT (CVPR 2025, arXiv 2503.19881) with the smaller CogVideoX-2B.

The paper has no such model: its settings for 5B, with the network and the noise schedule of 2B,
whose positions are added to the tokens instead of rotary. Its latents are scaled by 1.15258426,
those of 5B by 0.7, so that videos encoded for 5B do not fit.

Run: python -m m2dit_jax.train --config=configs/finetune_2b.py --workdir=runs/finetune_2b
on folders that the encode command wrote (`config.data.paths`). Needs CogVideoX-2b, as released or
as `python -m m2dit_jax.convert` writes it, at `config.train.init_from`.

Hardware: nothing of this size was run. The model has 1,693,783,872 parameters; in float32 they
and AdamW's two moments are 19 GiB, and the gradients 6 GiB more while a step is computed. A step
of 8 stories takes 16.4 GiB of each of 8 H100 and 27.7 PFLOP (python -m m2dit_jax.plan).
Deviations from the paper's scripts: as in configs/finetune_5b.py.
"""

from ml_collections import ConfigDict

from configs import finetune_5b


def get_config() -> ConfigDict:
    """configs/finetune_5b.py with everything that CogVideoX-2B has different."""
    config = finetune_5b.get_config()
    config.model.layers = 30
    config.model.heads = 30
    config.model.rotary = False
    config.model.added_positions = True
    config.diffusion.snr_shift = 3.0
    config.train.init_from = "models/CogVideoX-2b"
    return config
