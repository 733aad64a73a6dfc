"""The shapes task with a longer budget: the checkpoint behind the README's figures and pictures.

Run: python -m m2dit_jax.train --config=configs/shapes.py --workdir=runs/shapes
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with more and larger steps."""
    config = base.get_config()
    config.train.steps = 4000
    config.train.batch_size = 32
    config.train.eval_every = 1000
    return config
