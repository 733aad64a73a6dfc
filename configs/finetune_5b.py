"""Mask²DiT (CVPR 2025, arXiv 2503.19881), stage 2: the 5B model learns stories and to extend them.

The data are stories, each of three consecutive clips of one video; in half of them all scenes but
the last are given, so that the last is learnt as their continuation.

Run: python -m m2dit_jax.train --config=configs/finetune_5b.py --workdir=runs/finetune_5b \\
       --config.train.init_from=runs/pretrain_5b
on folders that the encode command wrote (`config.data.paths`). The weights are those of stage 1: of
its run, or of the model folder that `m2dit convert --source=runs/pretrain_5b` writes; from the
default, CogVideoX-5b, stage 1 would be left out.

Hardware and deviations from the paper's scripts: as in configs/pretrain_5b.py, and one more here:
whether scenes are given is drawn for every story by itself, there for a batch.
"""

from ml_collections import ConfigDict

from configs import pretrain_5b


def get_config() -> ConfigDict:
    """configs/pretrain_5b.py with given scenes."""
    config = pretrain_5b.get_config()
    config.train.given_probability = 0.5
    return config
