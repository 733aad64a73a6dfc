from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from configs import pretrain_5b

# The transformer of tests/weights/tiny_models.py.
TINY_ENCODED = {
    "data.scenes": 2,
    "data.frames": 5,
    "data.height": 32,
    "data.width": 32,
    "data.channels": 2,
    "data.text_length": 8,
    "data.text_dim": 6,
    "model.layers": 3,
    "model.heads": 1,
    "model.head_dim": 16,
    "model.time_dim": 4,
    "train.batch_size": 4,
    "train.learning_rate": 1e-2,
    "train.warmup_steps": 2,
    "train.init_from": "",
    "mesh.data": -1,
    "mesh.fsdp": 1,
    "mesh.context": 1,
}


def _tiny_encoded_config() -> ConfigDict:
    config = pretrain_5b.get_config()
    config.update_from_flattened_dict(TINY_ENCODED)
    return config


@pytest.fixture(scope="session")
def make_encoded_config() -> Callable[[], ConfigDict]:
    return _tiny_encoded_config
