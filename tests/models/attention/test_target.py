from types import SimpleNamespace

import pytest

from m2dit_jax.models.attention.target import Target


def device(platform, kind="", **more):
    return SimpleNamespace(platform=platform, device_kind=kind, **more)


@pytest.mark.parametrize(
    ("of", "target"),
    [
        (device("gpu", "H100", compute_capability="9.0"), Target("gpu", (9, 0), "H100")),
        (device("cuda", "B200", compute_capability="10.0"), Target("gpu", (10, 0), "B200")),
        (device("gpu", "MI250X", compute_capability="gfx90a"), Target("gpu", None, "MI250X")),
        (device("tpu", "TPU v5p"), Target("tpu", None, "TPU v5p")),
    ],
)
def test_the_device_says_what_it_is(of, target):
    assert Target.of(of) == target


def test_gpus_without_cudnns_attention_are_told_so():
    assert Target("gpu", (8, 0)).has_cudnn and not Target("gpu", (7, 5)).has_cudnn
    assert not Target("gpu", None).has_cudnn and not Target("tpu").has_cudnn
    assert "Tesla T4: cuDNN's attention needs" in Target("gpu", (7, 5), "Tesla T4").without_cudnn
    assert "found 7.5" in Target("gpu", (7, 5)).without_cudnn
    assert "found none" in Target("gpu", None, "AMD Instinct").without_cudnn
    for fine in (Target("gpu", (8, 0)), Target("tpu"), Target("cpu")):
        assert fine.without_cudnn == ""
