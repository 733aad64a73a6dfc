import importlib.util
from types import SimpleNamespace

import jax
import pytest

from m2dit_jax.tools.planning import topologies
from m2dit_jax.tools.planning.topologies import MissingExtra, open_topology, split_name


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("v5p:2x4x4", "v5p", (2, 4, 4)),
        ("v6e:8x8", "v6e", (8, 8)),
        ("h100:8", "h100", (8,)),
        ("h100:2x8", "h100", (2, 8)),
        ("cpu:8", "cpu", (8,)),
        ("rtx4090:1", "rtx4090", (1,)),
        ("a100_40:8", "a100_40", (8,)),
        ("v5e:1x1", "v5e", (1, 1)),
    ],
)
def test_names(name, kind, shape):
    assert split_name(name) == (kind, shape)


@pytest.mark.parametrize(
    "name", ["v5p", "v5p:2x3", "v7:2x2", "h100:2x8x1", "h100:0", "cpu:2x2", ""]
)
def test_other_names_are_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match=f"--topology={name}: .*v5p:.*2x4x4.*h100:2x8"):
        split_name(name)


@pytest.mark.parametrize(("name", "extra"), [("v5p:2x2x1", "tpu"), ("h100:8", "cuda12")])
def test_a_missing_compiler_is_named(name, extra, monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda _: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(MissingExtra, match=rf"pip install .*\[{extra}\]"):
        open_topology(name)


@pytest.mark.parametrize("plugin", topologies.CUDA_PLUGINS)
def test_either_cuda_plugin_compiles_for_gpus(plugin, monkeypatch):
    find = {plugin: object()}.get
    monkeypatch.setattr(topologies.importlib.util, "find_spec", find)
    asked = {}

    def describe(**arguments):
        asked.update(arguments)
        return SimpleNamespace(devices=["gpu"] * 8)

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", describe)
    assert len(open_topology("h100:8").devices) == 8
    assert asked["topology"] == "1x1x8"


def test_more_simulated_devices_than_there_are():
    count = len(jax.devices("cpu")) + 1
    with pytest.raises(ValueError, match=f"cpu:{count}: JAX has been started with"):
        open_topology(f"cpu:{count}")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="optional extra: libtpu")
def test_an_absent_tpu():
    machine = open_topology("v5p:2x2x1")
    assert (len(machine.devices), machine.per_node, machine.platform) == (4, 4, "tpu")
    assert len(open_topology("v6e:1x1").devices) == 1


@pytest.mark.skipif(
    not any(map(topologies._is_installed, topologies.CUDA_PLUGINS)),
    reason="optional extra: JAX's CUDA plugin",
)
def test_absent_gpus():
    machine = open_topology("h100:2x8")
    assert (len(machine.devices), machine.per_node) == (16, 8)
    assert [device.process_index for device in machine.devices] == [0] * 8 + [1] * 8
