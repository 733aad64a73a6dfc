"""A medium Mask²DiT on latents for measuring speed on a CPU; nothing is learnt with it.

Run: python -m m2dit_jax.benchmark --config=configs/bench_medium.py --threads=1
It needs no data: the benchmark makes random latents and embeddings. 34,038,848 parameters; a story
is 1,056 tokens, and its forward pass 42.2 GFLOP (43.8 if masked pairs counted too).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with the sizes that the PyTorch reference was timed with."""
    config = base.get_config()
    config.data.source = "latents"
    config.data.scenes = 3
    config.data.frames = 17  # 5 latent frames
    config.data.height, config.data.width = 128, 128  # 16 x 16 latents
    config.data.channels = 16
    config.data.text_length = 32
    config.data.text_dim = 64

    config.model.layers = 8
    config.model.heads = 6
    config.model.head_dim = 64
    config.model.time_dim = 512
    config.model.patch_size = 2
    config.model.patch_size_t = 1
    config.model.added_positions = False

    config.diffusion.prediction = "v"

    config.train.batch_size = 1
    config.train.optimizer = "adamw"
    config.train.ema_decay = 0.0
    config.train.eval_every = 0
    return config
