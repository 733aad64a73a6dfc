from types import SimpleNamespace

import jax

from m2dit_jax.utils import machine
from m2dit_jax.utils.machine import free_bytes


def device(stats):
    return SimpleNamespace(platform="gpu", memory_stats=lambda: stats)


def test_free_memory_of_an_accelerator():
    assert free_bytes(device({"bytes_limit": 100, "bytes_in_use": 30})) == 70
    assert free_bytes(device(None)) is None and free_bytes(device({"bytes_in_use": 3})) is None


def test_free_memory_of_a_cpu_is_the_hosts():
    free = free_bytes(jax.devices("cpu")[0])
    assert free is None or free > 2**20


def test_a_container_may_have_less_than_the_host(tmp_path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    cgroup.mkdir()
    assert machine._free_host_bytes(str(proc), str(cgroup)) is None
    (proc / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:       5 kB\n", encoding="utf-8")
    assert machine._free_host_bytes(str(proc), str(cgroup)) == 5120
    (cgroup / "memory.current").write_text("3000\n", encoding="utf-8")
    (cgroup / "memory.stat").write_text("anon 2000\ninactive_file 500\n", encoding="utf-8")
    for limit, free in (("max\n", 5120), ("4000\n", 1500), ("2000\n", 0)):
        (cgroup / "memory.max").write_text(limit, encoding="utf-8")
        assert machine._free_host_bytes(str(proc), str(cgroup)) == free
