import pytest

from m2dit_jax.tools.planning.gpu_targets import GPU_TARGETS, target_config
from m2dit_jax.utils.chips import CHIPS


@pytest.mark.parametrize("kind", GPU_TARGETS)
def test_every_target_is_described_for_xla(kind):
    text = target_config(GPU_TARGETS[kind])
    assert text.count("{") == text.count("}")
    assert f"device_memory_size: {CHIPS[kind].memory_bytes}" in text
    assert f'device_description_str: "{CHIPS[kind].name}"' in text


def test_only_data_centre_gpus_have_accelerated_features():
    accelerated = [k for k, t in GPU_TARGETS.items() if "ACCELERATED" in target_config(t)]
    assert accelerated == ["h100", "h200", "b200"]
    assert "major: 8 minor: 9" in " ".join(target_config(GPU_TARGETS["l4"]).split())
